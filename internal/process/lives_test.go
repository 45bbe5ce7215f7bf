package process

import (
	"os/exec"
	"testing"
)

func TestLives(t *testing.T) {
	child := exec.Command("cat")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	id := idOf(t, child.Process.Pid)
	other := id
	other.StartTime++
	reboot := id
	reboot.BootID = "another"
	for name, test := range map[string]struct {
		id   ID
		want bool
	}{
		"it": {id, true}, "its number's next owner": {other, false}, "before a reboot": {reboot, false}, "no pid": {ID{BootID: id.BootID}, false},
	} {
		if got, err := Lives(test.id); got != test.want || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	_ = in.Close()
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, err := Lives(id); got || err != nil {
		t.Errorf("ended: %v, %v", got, err)
	}
}

func idOf(t *testing.T, pid int) ID {
	t.Helper()
	s, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	return ID{PID: pid, StartTime: s.startTime, BootID: boot}
}
