// Package registries knows what the presets of `egress` stand for.
//
// Package registries are found where the host's own clients look for theirs, at
// the time of asking: npm, pip, go, cargo and apt, by their configuration, and
// where that says nothing by asking the client itself. So a company's mirror is
// what opens, and no registry is written down here. Model APIs and code hosts
// are data, in presets.yaml.
//
// It promises to run clients as the user whose configuration it is, without a
// terminal, outside of any project, for a few seconds at most and with bounded
// output; to open no more than the configuration names; and to change nothing.
package registries
