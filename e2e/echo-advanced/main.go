// Command echo-advanced stands in for the image of that name, which the mesh tests of the official suite take from the Istio
// project. It does what the name says by which it is called:
//
//	server [--port=PORT]... [--tls=PORT]... [--grpc=PORT]... [--tcp=PORT]... [--crt=FILE --key=FILE] [--version=V] [--cluster=C]
//	       [--linger=TIME] [--farewell=URL]
//	client http|https|grpc|tcp://HOST[:PORT][/PATH] [--method=GET] [-H NAME:VALUE]... [--count=N]
//	relay --to=http://HOST[:PORT] [--port=PORT]
//
// server tells back what it was asked; without ports it has those of the original. Unlike that, it may be told how to end:
// --linger, --farewell. client prints answers as the suite reads
// them, a blank line after each. relay, which the original does not have, passes requests on.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	name := filepath.Base(os.Args[0])
	err := fmt.Errorf("call it client, relay or server")
	switch name {
	case "client":
		err = request(os.Args[1:], os.Stdout)
	case "relay":
		err = relay(os.Args[1:])
	case "server":
		err = serve(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}
