package hypervisor

import "testing"

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]string{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright": "7.2.22",
		"QEMU emulator version 10.0.2":                                              "10.0.2", "cloud-hypervisor v52.0\n": "52.0", "cloud-hypervisor v46.0.345-dirty": "46.0.345",
	} {
		if got, err := parseVersion(text); got != want || err != nil {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if _, err := parseVersion("sh: not found"); err == nil {
		t.Error("a version of nothing")
	}
}
