// Package bench measures bield: what a host costs as it grows. `make bench` runs
// it; nothing here is asserted, since machines are noisy.
//
//	scale_test.go  a thousand declared VMs, hundreds of running ones (fakes)
package bench
