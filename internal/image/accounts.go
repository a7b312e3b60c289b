package image

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/imagespec"
)

// accounts are the tables below /etc that name users and groups.
type accounts struct {
	passwd, shadow, group, gshadow [][]string
}

func (t *tree) readAccounts() (*accounts, error) {
	a, err := t.readNames()
	if err != nil {
		return nil, err
	}
	return a, t.readTables(table{"/etc/shadow", 9, &a.shadow}, table{"/etc/gshadow", 4, &a.gshadow})
}

// readNames reads the tables without passwords: a small container has no others.
func (t *tree) readNames() (*accounts, error) {
	var a accounts
	return &a, t.readTables(table{"/etc/passwd", 7, &a.passwd}, table{"/etc/group", 4, &a.group})
}

// table is a file of rows that are to be read.
type table struct {
	path   string
	fields int
	rows   *[][]string
}

func (t *tree) readTables(tables ...table) error {
	for _, table := range tables {
		text, err := t.read(table.path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			row := strings.Split(strings.TrimRight(line, "\n"), ":")
			if len(row) != table.fields {
				return fmt.Errorf("read %s in the image: line %q has %d fields, want %d",
					table.path, row[0], len(row), table.fields)
			}
			*table.rows = append(*table.rows, row)
		}
	}
	return nil
}

func (a *accounts) store(t *tree) {
	join := func(rows [][]string) []byte {
		var b strings.Builder
		for _, row := range rows {
			b.WriteString(strings.Join(row, ":") + "\n")
		}
		return []byte(b.String())
	}
	t.rewrite("/etc/passwd", join(a.passwd))
	t.rewrite("/etc/shadow", join(a.shadow))
	t.rewrite("/etc/group", join(a.group))
	t.rewrite("/etc/gshadow", join(a.gshadow))
}

func find(rows [][]string, name string) []string {
	if i := slices.IndexFunc(rows, func(r []string) bool { return r[0] == name }); i >= 0 {
		return rows[i]
	}
	return nil
}

// lock takes the password away from everybody and the build date out of the
// table: an account whose password field is not a hash cannot log in by one.
// An account without a row of its own there could not log in at all, a minimal
// root has such.
func (a *accounts) lock(epoch time.Time) {
	for _, user := range a.passwd {
		user[1] = "x"
		if find(a.shadow, user[0]) == nil {
			a.shadow = append(a.shadow, []string{user[0], "*", "", "0", "99999", "7", "", "", ""})
		}
	}
	for _, g := range a.group {
		g[1] = "x"
		if find(a.gshadow, g[0]) == nil {
			a.gshadow = append(a.gshadow, []string{g[0], "*", "", g[3]})
		}
	}
	day := strconv.FormatInt(epoch.Unix()/86400, 10)
	for _, row := range a.shadow {
		if row[1] != "!*" {
			row[1] = "*"
		}
		row[2] = day
	}
}

// set makes the account of u, or changes the one that is there.
func (a *accounts) set(u imagespec.User, epoch time.Time) error {
	hash := u.PasswordHash
	if hash == "" {
		hash = "*"
	}
	if row := find(a.passwd, u.Name); row != nil {
		if u.Name != "root" && row[2] != strconv.Itoa(u.UID) {
			return fmt.Errorf("add user %s: a package made that account with the number %s, the description says %d", u.Name, row[2], u.UID)
		}
		row[6] = u.Shell
		if s := find(a.shadow, u.Name); s != nil {
			s[1] = hash
		}
		return nil
	}
	return a.add(account{name: u.Name, id: strconv.Itoa(u.UID), home: "/home/" + u.Name, shell: u.Shell, hash: hash}, epoch)
}

// account is a user with a group of the same name and number.
type account struct{ name, id, about, home, shell, hash string }

// add makes an account.
func (a *accounts) add(u account, epoch time.Time) error {
	for _, row := range a.passwd {
		if row[2] == u.id {
			return fmt.Errorf("add user %s: the number %s belongs to %s", u.name, u.id, row[0])
		}
	}
	for _, row := range a.group {
		if row[0] == u.name || row[2] == u.id {
			return fmt.Errorf("add user %s: there is a group %s with the number %s", u.name, row[0], row[2])
		}
	}
	day := strconv.FormatInt(epoch.Unix()/86400, 10)
	a.passwd = append(a.passwd, []string{u.name, "x", u.id, u.id, u.about, u.home, u.shell})
	a.shadow = append(a.shadow, []string{u.name, u.hash, day, "0", "99999", "7", "", "", ""})
	a.group = append(a.group, []string{u.name, "x", u.id, ""})
	a.gshadow = append(a.gshadow, []string{u.name, "!", "", ""})
	return nil
}

// id returns the number of a user or group by name or number.
func id(rows [][]string, kind, name string) (int, error) {
	if row := find(rows, name); row != nil {
		return strconv.Atoi(row[2])
	}
	if n, err := strconv.Atoi(name); err == nil && n >= 0 {
		return n, nil
	}
	return 0, fmt.Errorf("no %s %q in the image", kind, name)
}
