package config

import (
	"go.yaml.in/yaml/v4"
)

// maxKey is in bytes; names of options and VMs are shorter.
const maxKey = 128

// entry is a key and its value; at is where a reader looks for it.
type entry struct {
	key, value *yaml.Node
	at         position
}

// entries lists what a mapping holds, with merge keys (<<) expanded: a key of
// the mapping's own wins over a merged one, and an earlier merge over a later.
// Duplicate keys and keys that are no scalar are reported and left out.
func (d *decoder) entries(n *yaml.Node, o option, depth int) []entry {
	var list []entry
	var merges []*yaml.Node
	seen := map[string]position{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := position{key.Line, key.Column}
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		first, twice := seen[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode:
			d.addBroken(at, o.at.to("?"), "a key is %s — write a name", kindOf(key))
		case len(key.Value) > maxKey:
			d.addBroken(at, o.at.to("?"), "%s is too long for a name — keep to %d bytes", quote(key.Value), maxKey)
		case key.ShortTag() == "!!merge":
			merges = append(merges, value)
		case twice:
			d.put(at, o.at.to(key.Value), "is there twice, first in line %d — remove one", first.line)
		default:
			seen[key.Value] = at
			list = append(list, entry{key, value, at})
		}
	}
	for _, m := range merges {
		list = d.merge(list, seen, m, o, depth+1)
	}
	return list
}

func (d *decoder) merge(list []entry, seen map[string]position, m *yaml.Node, o option, depth int) []entry {
	at := position{m.Line, m.Column}
	if m.Kind == yaml.AliasNode {
		m = m.Alias
	}
	if d.values += 1 + len(m.Content); d.values > maxValues || depth > maxDepth {
		d.giveUp(at)
		return list
	}
	switch m.Kind {
	case yaml.SequenceNode:
		for _, c := range m.Content {
			list = d.merge(list, seen, c, o, depth+1)
		}
	case yaml.MappingNode:
		for _, e := range d.entries(m, o, depth) {
			if _, own := seen[e.key.Value]; !own {
				seen[e.key.Value] = e.at
				list = append(list, e)
			}
		}
	default:
		d.addBroken(at, o.at.to("<<"), "merges %s — write the alias of a mapping, such as *base", kindOf(m))
	}
	return list
}
