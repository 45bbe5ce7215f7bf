// Package egress is the process `bieldd egress`: the guests' resolver, a
// transparent proxy for their TCP, and the log of what was refused. The
// firewall redirects to it; what it does not let through stays closed, and when
// it or the daemon dies everything that needs it is.
//
// It promises that
//   - without a policy nothing is allowed, and a guest is known by its address
//     alone, which the firewall keeps others from using;
//   - where names are filtered, a name that is not allowed is neither resolved nor
//     asked of anybody; only A and CNAME are asked for names that are;
//   - a connection goes where the guest sent it, never elsewhere, and only when
//     the name that the client tells (SNI or Host) is allowed at that port and
//     this resolver told this VM that address for that very name, of late;
//   - no name opens an address of the host, of the VMs' subnet, loopback,
//     multicast or link-local; private ones only names of `allow` do, and
//     names of the host's own configuration;
//   - a refusal can be read: NXDOMAIN with an extended error (RFC 8914) and a TXT
//     record with the reason, 403 with a text, a TLS alert; and each is counted;
//   - a new policy counts at once, also for connections that are open.
//
// All that comes from guests, name servers and servers is hostile: everything is
// bounded, in size, time and number, each VM for itself.
//
// # Names
//
// A name is what the guest asks. That its CNAME leads elsewhere is the business
// of who answers for it: the addresses at the end of the chain count for the
// name that was asked, and the names on the way are not allowed by that. Answers
// are made anew: of an upstream answer stay the CNAMEs from the question and the
// records at their end, less the addresses that the VM may not reach. AAAA, HTTPS
// and SVCB have no records: guests have no IPv6, and those offer QUIC and encrypted
// server names. A ClientHello with an encrypted name (ECH) is refused, also the
// random one that browsers send, as the two can't be told apart.
//
// # What remains
//
//   - Below a wildcard a guest chooses a part of the name, which the domain's
//     owner sees: up to 80 characters, 500 names at once and 10 a second then.
//     List exact names where that is too much.
//   - What an allowed server passes on is its business: a code host takes pushes,
//     and a CDN may serve what the Host inside of TLS says (domain fronting), which
//     can't be seen without decryption. A server that accepts another name in the
//     second ClientHello after a HelloRetryRequest does what TLS forbids.
//   - A port given explicitly (`example.org:22`) carries any protocol. What looks
//     like TLS or HTTP is checked as such, and nothing is passed on unchecked
//     before either side has spoken, but a protocol that turns into TLS
//     (STARTTLS) could name another server on the same address.
//   - Times and order of allowed connections are a slow channel to their servers.
//
// # Files
//
// policy and rules: policy.go, rules.go, decide.go, name.go. Resolver: resolver.go,
// answer.go, upstream.go; records.go remembers what was told. Proxy: proxy.go,
// conn.go, hello.go for TLS, web.go for HTTP. Denials: denials.go, nflog.go. The
// process: sockets.go, serve.go, control.go; client.go is for the daemon.
package egress
