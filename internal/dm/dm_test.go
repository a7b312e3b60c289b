package dm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func verity() Verity {
	v := Verity{Data: "/dev/vda2", Hash: "/dev/vda2", DataBlocks: 100, HashStart: 101, Salt: bytes.Repeat([]byte{0xab}, 32)}
	v.Root[0], v.Root[31] = 1, 0xff
	return v
}

func TestVerityTarget(t *testing.T) {
	got, err := verity().Target()
	want := Target{800, "verity", "1 /dev/vda2 /dev/vda2 4096 4096 100 101 sha256 " +
		"01" + strings.Repeat("00", 30) + "ff " + strings.Repeat("ab", 32)}
	if err != nil || got != want {
		t.Errorf("Target() = %+v, %v, want %+v", got, err, want)
	}
	v := verity()
	v.Salt = nil
	if got, err := v.Target(); err != nil || !strings.HasSuffix(got.Params, "ff -") {
		t.Errorf("Target(no salt) = %q, %v, want params that end in -", got.Params, err)
	}
}

func TestVerityTargetRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Verity)
	}{
		{"no data", func(v *Verity) { v.DataBlocks = 0 }},
		{"negative data", func(v *Verity) { v.DataBlocks = -1 }},
		{"data beyond sectors", func(v *Verity) { v.DataBlocks = 1 << 60 }},
		{"tree inside data", func(v *Verity) { v.HashStart = 99 }},
		{"negative tree", func(v *Verity) { v.HashStart = -1; v.Hash = "/dev/vdb" }},
		{"blank in device", func(v *Verity) { v.Data = "/dev/v da" }},
		{"no device", func(v *Verity) { v.Hash = "" }},
		{"backslash in device", func(v *Verity) { v.Hash = `/dev/v\da` }},
		{"long salt", func(v *Verity) { v.Salt = make([]byte, 257) }},
	} {
		v := verity()
		tt.change(&v)
		if got, err := v.Target(); err == nil {
			t.Errorf("%s: Target() = %+v, want an error", tt.name, got)
		}
	}
}

// The bytes are those that C's compiler lays out for the structs of
// linux/dm-ioctl.h on a little-endian machine.
func TestRequestBytes(t *testing.T) {
	got, err := request("eos-root", "ID", flagReadonly, &Target{0x1122334455, "verity", "1 a b"})
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 312+40+8)
	copy(want[0:], []byte{4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})        // version 4.0.0
	copy(want[12:], []byte{0x68, 1, 0, 0})                            // data_size 360
	copy(want[16:], []byte{0x38, 1, 0, 0})                            // data_start 312
	copy(want[20:], []byte{1, 0, 0, 0})                               // target_count
	copy(want[28:], []byte{1, 0, 0, 0})                               // flags: read only
	copy(want[48:], "eos-root")                                       // name
	copy(want[176:], "ID")                                            // uuid
	copy(want[312+8:], []byte{0x55, 0x44, 0x33, 0x22, 0x11, 0, 0, 0}) // length
	copy(want[312+20:], []byte{48, 0, 0, 0})                          // next
	copy(want[312+24:], "verity")
	copy(want[312+40:], "1 a b")
	if !bytes.Equal(got, want) {
		t.Errorf("request() =\n%swant\n%s", hex.Dump(got), hex.Dump(want))
	}
}

func TestRequestRefuses(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, tt := range []struct {
		name, uuid string
		target     *Target
	}{
		{"", "", nil},
		{"a/b", "", nil},
		{"a\x00b", "", nil},
		{long[:128], "", nil},
		{"a", long[:129], nil},
		{"a", "u\x00", nil},
		{"a", "", &Target{1, "", "x"}},
		{"a", "", &Target{1, long[:16], "x"}},
		{"a", "", &Target{1, "verity", "x\x00"}},
	} {
		if _, err := request(tt.name, tt.uuid, 0, tt.target); err == nil {
			t.Errorf("request(%q, %q, %+v) = nil, want an error", tt.name, tt.uuid, tt.target)
		}
	}
	if _, err := request(long[:127], long[:128], 0, &Target{1, long[:15], long}); err != nil {
		t.Errorf("request(longest name, uuid and type) = %v, want no error", err)
	}
}

func TestIoctlNumbers(t *testing.T) {
	// As printed by a C program for DM_DEV_CREATE, DM_DEV_REMOVE, DM_DEV_SUSPEND, DM_TABLE_LOAD.
	for cmd, want := range map[uintptr]uintptr{
		cmdDevCreate: 0xc138fd03, cmdDevRemove: 0xc138fd04, cmdDevSuspend: 0xc138fd06, cmdTableLoad: 0xc138fd09,
	} {
		if got := ioctlNumber(cmd); got != want {
			t.Errorf("ioctlNumber(%d) = %#x, want %#x", cmd, got, want)
		}
	}
}

func TestDevice(t *testing.T) {
	for _, tt := range []struct {
		dev          uint64
		major, minor uint32
	}{{0xfd00, 253, 0}, {0xfd07, 253, 7}, {0x1000fe02, 254, 0x10002}} {
		b := make([]byte, headerSize)
		binary.NativeEndian.PutUint64(b[offDev:], tt.dev)
		if major, minor := device(b); major != tt.major || minor != tt.minor {
			t.Errorf("device(%#x) = %d, %d, want %d, %d", tt.dev, major, minor, tt.major, tt.minor)
		}
	}
}

// What Create asks the kernel for, and that it leaves nothing behind when a step goes wrong.
func TestCreate(t *testing.T) {
	target, err := verity().Target()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		fail uintptr
		want string
		text string
	}{
		{0, "3 9 6", ""},
		{cmdDevCreate, "3", "create device eos-root: device or resource busy"},
		{cmdTableLoad, "3 9 4", "load table eos-root (0 800 verity 1 /dev/vda2 "},
		{cmdDevSuspend, "3 9 6 4", "start device eos-root: device or resource busy"},
	} {
		var calls []string
		d, err := create(func(cmd uintptr, b []byte) error {
			calls = append(calls, fmt.Sprint(cmd))
			if cmd == tt.fail {
				return unix.EBUSY
			}
			binary.NativeEndian.PutUint64(b[offDev:], 0xfd03)
			return nil
		}, "eos-root", "uuid", target)
		if got := strings.Join(calls, " "); got != tt.want {
			t.Errorf("create(%d fails) made calls %s, want %s", tt.fail, got, tt.want)
		}
		switch {
		case tt.fail == 0 && (err != nil || *d != Device{"eos-root", 253, 3} || d.Node() != "/dev/dm-3"):
			t.Errorf("create() = %+v, %v, want eos-root 253:3", d, err)
		case tt.fail != 0 && (!errors.Is(err, unix.EBUSY) || !strings.HasPrefix(err.Error(), tt.text)):
			t.Errorf("create(%d fails) = %v, want %s...", tt.fail, err, tt.text)
		}
	}
}
