package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Save writes the running machine with its memory and devices to the folder dir, which must
// not exist and be on the same file system as the machine, and ends the machine. Disks that
// an NBD server serves are the caller's to save, after Save has returned. [Config.From]
// starts machines from dir, any number of them; they need dir as long as they live.
func (m *Machine) Save(ctx context.Context, dir string) error {
	if err := m.saveTo(ctx, dir); err != nil {
		return fmt.Errorf("save machine %s to %s: %w", m.Name, dir, err)
	}
	return nil
}

func (m *Machine) saveTo(ctx context.Context, dir string) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	p, err := m.open()
	if err != nil {
		return err
	}
	defer p.close()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := m.writeState(ctx); err != nil {
		return err
	}
	if err := p.wait(ctx); err != nil {
		return err
	}
	if err := m.endTPM(ctx); err != nil {
		return err
	}
	for _, f := range []string{stateFile, varsFile, diskFile, registryFile, tpmDir, infoFile} {
		err := os.Rename(m.path(f), filepath.Join(dir, f))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// writeState stops the guest, writes memory and devices to a file and ends QEMU. Mapped RAM
// has a fixed place for each page in the file: pages are read back in one go.
func (m *Machine) writeState(ctx context.Context) error {
	q, err := m.QMP(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	for _, s := range []step{
		{"stop", nil},
		{"migrate-set-capabilities", mappedRAM},
		{"migrate", args{"uri": "file:" + stateFile}},
	} {
		if err := q.Do(ctx, s.command, s.args, nil); err != nil {
			return err
		}
	}
	if err := awaitMigration(ctx, q); err != nil {
		return err
	}
	return q.Do(ctx, "quit", nil, nil)
}

var mappedRAM = args{"capabilities": []any{
	args{"capability": "mapped-ram", "state": true},
}}

// awaitMigration returns when all of the machine's state went through.
func awaitMigration(ctx context.Context, q *QMP) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var is struct {
			Status string `json:"status"`
			Desc   string `json:"error-desc"`
		}
		if err := q.Do(ctx, "query-migrate", nil, &is); err != nil {
			return err
		}
		switch is.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("qemu migrate: %s: %s", is.Status, is.Desc)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// restoreFiles gives the machine what was saved beside memory and devices: disks as overlays,
// the rest as copies.
func (h Host) restoreFiles(ctx context.Context, m *Machine, c Config) error {
	from, err := filepath.Abs(c.From)
	if err != nil {
		return err
	}
	for _, f := range []string{diskFile, registryFile} {
		if _, err := os.Lstat(filepath.Join(from, f)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := h.make(ctx, m, f, "create", "-q", "-f", "qcow2", "-b", filepath.Join(from, f), "-F", "qcow2"); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(filepath.Join(from, varsFile))
	if err != nil {
		return err
	}
	if err := os.WriteFile(m.path(varsFile), b, 0o600); err != nil {
		return err
	}
	return os.CopyFS(m.path(tpmDir), os.DirFS(filepath.Join(from, tpmDir)))
}

// restore loads the saved state into a QEMU that waits for it, and lets the guest go on.
func restore(ctx context.Context, q *QMP, state string) error {
	if err := q.Do(ctx, "migrate-set-capabilities", mappedRAM, nil); err != nil {
		return err
	}
	if err := q.Do(ctx, "migrate-incoming", args{"uri": "file:" + state}, nil); err != nil {
		return err
	}
	if err := awaitMigration(ctx, q); err != nil {
		return err
	}
	return q.Do(ctx, "cont", nil, nil)
}
