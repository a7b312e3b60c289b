package main

import (
	"strings"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/s3store"
)

// storeAt returns the store that --repo names: a folder, or s3://BUCKET/PREFIX.
func storeAt(address string) (repository.Store, error) {
	if !strings.HasPrefix(address, s3store.Scheme) {
		return repository.Folder(address), nil
	}
	s, err := s3store.Open(address)
	if err != nil {
		return nil, cli.Refuse(cli.Usage, err, "$AWS_ENDPOINT_URL names the server, if it is not Amazon's")
	}
	return s, nil
}
