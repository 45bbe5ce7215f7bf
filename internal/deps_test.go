package internal_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// allowed says who may import whom of bield's own rooms, tests left out. A new
// edge is a decision: make it here and in docs/architecture.md.
var allowed = map[string]string{
	"cmd/bield":      "internal/api internal/api/client internal/cgroup internal/config internal/hypervisor/installed internal/notify internal/preflight internal/registries internal/setup internal/spec internal/state",
	"cmd/bieldd":     "internal/api/server internal/egress internal/hypervisor/installed internal/notify internal/process internal/reconcile internal/setup internal/spec internal/state",
	"cmd/bield-init": "internal/guest internal/guestconfig internal/guestlink",

	"cmd/bield-probe": "internal/probe",

	"internal/spec":        "",
	"internal/guestconfig": "",
	"internal/guestlink":   "",
	"internal/state":       "",
	"internal/process":     "",
	"internal/apt":         "",
	"internal/notify":      "",
	"internal/probe":       "",
	"internal/witness":     "",

	"internal/config": "internal/spec",
	"internal/plan":   "internal/spec",
	"internal/api":    "internal/spec",
	"internal/guest":  "internal/guestconfig internal/guestlink",
	"internal/verify": "internal/probe",

	"internal/network":                    "internal/spec internal/state internal/process internal/guestconfig",
	"internal/cgroup":                     "",
	"internal/firewall":                   "internal/spec internal/state internal/process internal/guestconfig",
	"internal/egress":                     "internal/spec internal/state internal/process internal/guestconfig",
	"internal/share":                      "internal/spec internal/state internal/process internal/guestconfig",
	"internal/sshaccess":                  "internal/spec internal/state internal/process internal/guestconfig",
	"internal/hypervisor":                 "internal/spec internal/state internal/process internal/guestconfig",
	"internal/hypervisor/qemu":            "internal/hypervisor internal/spec internal/state internal/process internal/guestconfig",
	"internal/hypervisor/cloudhypervisor": "internal/hypervisor internal/spec internal/state internal/process internal/guestconfig",
	"internal/hypervisor/hypervisortest":  "internal/hypervisor internal/process",
	"internal/hypervisor/installed":       "internal/hypervisor internal/hypervisor/cloudhypervisor internal/hypervisor/qemu internal/spec",
	"internal/image":                      "internal/apt internal/spec internal/state internal/process internal/guestconfig",
	"internal/setup":                      "internal/apt internal/state",
	"internal/registries":                 "internal/apt internal/spec",
	"internal/obstacles":                  "internal/spec",
	"internal/preflight":                  "internal/obstacles internal/spec internal/state internal/process internal/guestconfig",

	"internal/reconcile": "internal/cgroup internal/egress internal/firewall internal/guestconfig internal/guestlink internal/hypervisor internal/image " +
		"internal/network internal/obstacles internal/plan internal/probe internal/process internal/share internal/spec internal/sshaccess internal/state internal/verify internal/witness",
	"internal/api/client": "internal/api",
	"internal/api/server": "internal/api internal/reconcile",
}

func TestImports(t *testing.T) {
	rooms := imports(t)
	for _, room := range slices.Sorted(maps.Keys(rooms)) {
		may, known := allowed[room]
		if !known {
			t.Errorf("%s is not in the table: say what it may import", room)
			continue
		}
		for _, imported := range slices.Sorted(maps.Keys(rooms[room])) {
			if !slices.Contains(strings.Fields(may), imported) {
				t.Errorf("%s imports %s, which the table does not allow", room, imported)
			}
		}
	}
	for room := range allowed {
		if _, there := rooms[room]; !there {
			t.Errorf("the table has %s, which does not exist", room)
		}
	}
}

// TestRoomsSayWhatTheyAreFor holds every room to a package comment.
func TestRoomsSayWhatTheyAreFor(t *testing.T) {
	commented := map[string]bool{}
	eachFile(t, func(room, file string) {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		commented[room] = commented[room] || f.Doc != nil
	})
	for room, ok := range commented {
		if !ok {
			t.Errorf("%s has no package comment", room)
		}
	}
}

// imports maps each room to bield's own packages that its code imports.
func imports(t *testing.T) map[string]map[string]bool {
	rooms := map[string]map[string]bool{}
	eachFile(t, func(room, file string) {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		if rooms[room] == nil {
			rooms[room] = map[string]bool{}
		}
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if own, ok := strings.CutPrefix(name, "bield/"); ok {
				rooms[room][own] = true
			}
		}
	})
	return rooms
}

func eachFile(t *testing.T, visit func(room, file string)) {
	for _, top := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join("..", top), func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if !d.IsDir() && strings.HasSuffix(file, ".go") && !strings.HasSuffix(file, "_test.go") {
				room := path.Dir(strings.TrimPrefix(filepath.ToSlash(file), "../"))
				if !strings.Contains(room, "testdata") {
					visit(room, file)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
