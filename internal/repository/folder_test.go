package repository_test

import (
	"path/filepath"
	"testing"

	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/repository/storetest"
)

func TestFolder(t *testing.T) {
	storetest.Run(t, repository.Folder(filepath.Join(t.TempDir(), "new")), true)
}
