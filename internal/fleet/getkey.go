package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/OSInside/eos/internal/cli"
)

// Where a key comes from.
const (
	SourceDevice = "device" // made on this device, nobody else has it
	SourceImage  = "image"  // came with the image, every device has it
)

// Placed says which key os-update finds now.
type Placed struct {
	File        string `json:"file"`
	Source      string `json:"source"`
	Fingerprint string `json:"fingerprint"`
	Problem     string `json:"problem,omitempty"` // why it is not the device's own
}

// GetKey puts the key for updates where os-update looks for it: the device's own if it has
// one, else that of the image. A key of its own that is damaged does not keep a device from
// its updates if there is the other; [Placed].Problem then says so.
func (d *Device) GetKey(ctx context.Context) (*Placed, error) {
	res := &Placed{File: d.Key, Source: SourceDevice}
	k, err := LoadKey(filepath.Join(d.State, ownFile))
	if err != nil {
		own := err
		res.Source = SourceImage
		k, err = LoadKey(d.Shared)
		switch missing := errors.Is(own, fs.ErrNotExist); {
		case err == nil && !missing:
			res.Problem = own.Error()
		case err == nil:
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		case !missing:
			return nil, own
		default:
			return nil, cli.Refuse(cli.Nothing, errors.New("find a key for updates: this device has none of its own, and its image came without one"),
				"make one with fleet --enroll, and add its public key to the update server")
		}
	}
	res.Fingerprint = k.Fingerprint()
	if err := d.write(ctx, d.Key, k.private); err != nil {
		return nil, fmt.Errorf("put key to %s: %w", d.Key, err)
	}
	return res, nil
}
