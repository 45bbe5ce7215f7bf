package spec

import "testing"

func TestDerivedNames(t *testing.T) {
	tests := []struct{ name, mac, tap string }{
		{"claude-home", "02:00:00:01:b8:4b", "mvb84b5ea1db5"},
		{"a", "02:00:00:01:ca:97", "mvca978112ca1"},
	}
	for _, tt := range tests {
		if got := DerivedMAC(tt.name); got != tt.mac {
			t.Errorf("DerivedMAC(%q) = %s, want %s", tt.name, got, tt.mac)
		}
		tap := VM{Name: tt.name}.Tap()
		if tap != tt.tap {
			t.Errorf("Tap of %q = %s, want %s", tt.name, tap, tt.tap)
		}
		if len(tap) > MaxInterfaceName {
			t.Errorf("tap %s is longer than Linux allows", tap)
		}
		if m := macProblem(DerivedMAC(tt.name)); m != "" {
			t.Errorf("the derived MAC of %q is refused: %s", tt.name, m)
		}
	}
}
