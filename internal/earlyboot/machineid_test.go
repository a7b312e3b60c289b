package earlyboot

import "testing"

func TestMachineID(t *testing.T) {
	for guid, want := range map[string]string{
		"11223344-5566-4788-99aa-bbccddeeff00": "112233445566478899aabbccddeeff00",
		"11223344-5566-5788-99aa-bbccddeeff00": "", // the builder's
		"":                                     "",
	} {
		if got := machineID(guid); got != want {
			t.Errorf("machineID(%s) = %q, want %q", guid, got, want)
		}
	}
	a, b := newMachineID(), newMachineID()
	if a == b || len(a) != 32 || a[12] != '4' {
		t.Errorf("new machine ids %s and %s, want two of 32 digits with version 4", a, b)
	}
}
