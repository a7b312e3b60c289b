package earlyboot

import "testing"

func TestNewMachineID(t *testing.T) {
	a, b := newMachineID(), newMachineID()
	if a == b || len(a) != 32 || a[12] != '4' {
		t.Errorf("new machine ids %s and %s, want two of 32 digits with version 4", a, b)
	}
}
