package plan

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"bield/internal/spec"
)

// TestDifferSeesEveryOption changes one field after the other: a new one cannot
// be forgotten.
func TestDifferSeesEveryOption(t *testing.T) {
	fill := func() spec.VM {
		return spec.VM{
			User:   spec.User{AuthorizedKeys: []string{"ssh-ed25519 AAAA me"}},
			Image:  spec.Image{Packages: []string{"git"}},
			Shares: []spec.Share{{Tag: "one", User: &spec.ID{}}},
			Egress: spec.Egress{Names: []spec.Target{{Name: "one"}}, Allow: []spec.Target{{Name: "two"}}},
		}
	}
	full := fill()
	// What differs without a difference: a name is another VM, and the rest only
	// says how a file was read.
	same := []string{"Name", "User.Explicit", "Shares.Owner", "Egress.Names.Preset", "Egress.Allow.Preset"}
	eachField(reflect.TypeFor[spec.VM](), nil, func(path []string, index [][]int) {
		name := strings.Join(path, ".")
		other := fill()
		value := reflect.ValueOf(&other).Elem()
		for _, i := range index {
			if value.Kind() == reflect.Slice {
				value = value.Index(0)
			}
			value = value.FieldByIndex(i)
		}
		alter(t, value)
		live, restart := differ(full, other)
		if found := len(live)+len(restart) > 0; found == slices.Contains(same, name) {
			t.Errorf("%s: live %q, restart %q", name, live, restart)
		}
	})
	a, b := full, full
	a.Shares = []spec.Share{{Tag: "one"}, {Tag: "two"}}
	b.Shares = []spec.Share{{Tag: "two"}, {Tag: "one"}}
	if _, restart := differ(a, b); len(restart) != 1 {
		t.Errorf("the order of shares: %q", restart)
	}
}

// eachField visits the fields of a struct and of the structs in it.
func eachField(t reflect.Type, index [][]int, visit func([]string, [][]int)) {
	for f := range t.Fields() {
		at := append(slices.Clone(index), f.Index)
		inner := f.Type
		if inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner.PkgPath() == t.PkgPath() {
			eachField(inner, at, func(path []string, index [][]int) { visit(append([]string{f.Name}, path...), index) })
			continue
		}
		visit([]string{f.Name}, at)
	}
}

func alter(t *testing.T, v reflect.Value) {
	switch v.Interface().(type) {
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.MustParseAddr("10.0.0.9")))
		return
	case netip.Prefix:
		v.Set(reflect.ValueOf(netip.MustParsePrefix("10.0.0.0/9")))
		return
	case []string:
		v.Set(reflect.ValueOf([]string{"another"}))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		alter(t, v.Elem())
	case reflect.Struct:
		alter(t, v.Field(0))
	case reflect.String:
		v.SetString("another")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Uint16, reflect.Uint32:
		v.SetUint(v.Uint() + 1)
	default:
		t.Fatalf("no other value of %s", v.Type())
	}
}

// TestHypervisorThatWillDo: what a VM runs on needs no restart to be what it asks
// for now.
func TestHypervisorThatWillDo(t *testing.T) {
	vm := claudeHome()
	vm.Hypervisor = spec.HypervisorAuto
	have := running(vm)
	have.Hypervisor = spec.HypervisorQEMU
	host := spec.Host{Bridge: "microbr"}
	for asked, restart := range map[spec.HypervisorKind]bool{
		spec.HypervisorAuto: false, spec.HypervisorQEMU: false, spec.HypervisorCloudHypervisor: true,
	} {
		vm.Hypervisor = asked
		if needed := RestartNeeded(Wanted{VM: vm}, host, have); (len(needed) > 0) != restart {
			t.Errorf("%s: %q", asked, needed)
		}
	}
}
