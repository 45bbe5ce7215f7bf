package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// unknownOption says what to write in place of a key that t does not have.
func unknownOption(key string, t reflect.Type) string {
	names := slices.Sorted(maps.Keys(optionsOf(t)))
	if where := belongs(key); where != "" {
		return "this option is unknown here — it is " + where
	}
	near := synonym(key)
	if !slices.Contains(names, near) {
		near = nearest(key, names)
	}
	if near != "" {
		return "this option is unknown — write " + near
	}
	return "this option is unknown — there are: " + strings.Join(names, ", ")
}

// belongs says where there is an option of that name, or is "".
func belongs(key string) string {
	for _, place := range []struct {
		t  reflect.Type
		at string
	}{
		{reflect.TypeFor[vmFile](), "an option of a VM: put it below vms and the VM's name"},
		{reflect.TypeFor[hostFile](), "an option of the host: put it at the top level"},
		{reflect.TypeFor[userFile](), "an option of the user: put it below user"},
		{reflect.TypeFor[imageFile](), "an option of the image: put it below image"},
		{reflect.TypeFor[shareFile](), "an option of a share: put it below an item of shares"},
		{reflect.TypeFor[egressFile](), "an option of egress: put it below egress"},
	} {
		if _, ok := optionsOf(place.t)[key]; ok {
			return place.at
		}
	}
	return ""
}

// synonym knows what other tools call an option.
func synonym(key string) string {
	return map[string]string{
		"cpu": "vcpu", "cpus": "vcpu", "cores": "vcpu", "ram": "mem", "packages": "extraPackages", "address": "ip",
		"dns": "nameservers", "target": "mountPoint", "destination": "mountPoint", "path": "source", "src": "source",
		"sshkeys": "authorizedKeys", "keys": "authorizedKeys", "ro": "readOnly", "distribution": "suite", "release": "suite",
		"nic": "externalInterface", "interface": "externalInterface", "volumes": "shares", "mounts": "shares",
	}[folded(key)]
}

// nearest is the name that key was probably meant to be, or "".
func nearest(key string, names []string) string {
	const longest = 40
	if len(key) > longest || key == "" {
		return ""
	}
	best, distance := "", 1000
	for _, name := range names {
		a, b := folded(key), folded(name)
		d := editDistance(a, b)
		if len(a) >= 3 && len(b) >= 3 && (strings.HasPrefix(a, b) || strings.HasPrefix(b, a)) {
			d = min(d, 1)
		}
		if d < distance && d <= max(1, min(len(a), len(b))/3) {
			best, distance = name, d
		}
	}
	return best
}

// folded forgets how words are joined: state_dir, state-dir and stateDir.
func folded(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || unicode.IsSpace(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}

// editDistance is Levenshtein's, in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := min(row[j]+1, row[j+1]+1, corner)
			if a[i] != b[j] {
				next = min(row[j], row[j+1], corner) + 1
			}
			corner, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
