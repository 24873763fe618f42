package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

// unused is how long a connection is kept that nobody uses: for less than servers linger, so that none is left when they are gone.
const unused = 2 * time.Second

// wait is how long a server may take to begin its answer: for less than those wait who ask the relay, so that they hear of it.
const wait = 8 * time.Second

// relay passes every request on to one place, as a client of its own, and tells back what it gets there; 502 is what it says
// itself if that is nothing, with the reason. Who asks it from outside of the mesh sees what an application inside meets: all of
// it where a request has a body, since the transport asks again by itself only for what it can say a second time.
func relay(args []string) error {
	flags := flag.NewFlagSet("relay", flag.ContinueOnError)
	port := flags.Int("port", 9000, "where it listens")
	to := flags.String("to", "", "where it passes requests on to, as a URL")
	if err := flags.Parse(args); err != nil {
		return err
	}
	target, err := url.Parse(*to)
	if err != nil || target.Host == "" {
		return fmt.Errorf("--to=%s is no URL of a server", *to)
	}
	transport := &http.Transport{IdleConnTimeout: unused, ResponseHeaderTimeout: wait}
	transport.DialContext = (&net.Dialer{Timeout: wait}).DialContext
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(request *httputil.ProxyRequest) { request.SetURL(target) },
		ErrorHandler: func(response http.ResponseWriter, _ *http.Request, err error) {
			http.Error(response, err.Error(), http.StatusBadGateway)
		},
	}
	return http.ListenAndServe(fmt.Sprint(":", *port), proxy)
}
