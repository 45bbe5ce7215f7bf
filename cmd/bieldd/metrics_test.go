package main

import "testing"

func TestCheckMetrics(t *testing.T) {
	for address, good := range map[string]bool{
		"": true, "127.0.0.1:9109": true, "[::1]:9109": true, "localhost:9109": true, "0.0.0.0:9109": true, "host.example:9109": true,
		":9109": false, "9109": false, "127.0.0.1": false, "[]:9109": false,
	} {
		if err := checkMetrics(address); (err == nil) != good {
			t.Errorf("%s: %v", address, err)
		}
	}
}
