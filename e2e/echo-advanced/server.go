package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	// idle is how long a client may say nothing.
	idle = time.Minute
	// longest is as much of a body as is told back.
	longest = 4096
)

// server knows who it is, and whether it is about to end.
type server struct {
	version, cluster, hostname string
	leaving                    *atomic.Bool
}

// serve tells back what it is asked until a port fails, or it is told to end. A port of --port that --tls names too is served
// over TLS.
func serve(args []string) error {
	var http, https, grpc, tcp ports
	self := server{leaving: new(atomic.Bool)}
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	flags.Var(&http, "port", "port for HTTP")
	flags.Var(&https, "tls", "port for HTTP over TLS")
	flags.Var(&grpc, "grpc", "port for gRPC")
	flags.Var(&tcp, "tcp", "port for TCP")
	certificate := flags.String("crt", "/cert.crt", "certificate chain; where there is none, one is made")
	key := flags.String("key", "/cert.key", "its key")
	flags.StringVar(&self.version, "version", "", "told as ServiceVersion")
	flags.StringVar(&self.cluster, "cluster", "", "told as Cluster")
	linger := flags.Duration("linger", 0, "told to end, it goes on for so long, and lets each connection of HTTP end with its next answer")
	farewell := flags.String("farewell", "", "told to end, it asks this URL last, and fails unless the answer is 200")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if len(http)+len(https)+len(grpc)+len(tcp) == 0 {
		http, https, grpc, tcp = ports{8080}, ports{8443}, ports{7070}, ports{9090}
	}
	http = slices.DeleteFunc(http, func(port uint16) bool { return slices.Contains(https, port) })
	pair, err := identity(*certificate, *key)
	if err != nil {
		return err
	}
	self.hostname, err = os.Hostname()
	if err != nil {
		return err
	}
	ended := make(chan error)
	for _, service := range []struct {
		ports
		serve func(net.Listener) error
	}{
		{http, func(listener net.Listener) error { return self.http(nil).Serve(listener) }},
		{https, func(listener net.Listener) error { return self.http(&pair).ServeTLS(listener, "", "") }},
		{grpc, self.grpc},
		{tcp, self.tcp},
	} {
		for _, port := range service.ports {
			listener, err := net.Listen("tcp", ":"+strconv.Itoa(int(port)))
			if err != nil {
				return err
			}
			go func() { ended <- service.serve(listener) }()
		}
	}
	told := make(chan os.Signal, 1)
	// The original ends at once.
	if *linger > 0 || *farewell != "" {
		signal.Notify(told, syscall.SIGTERM)
	}
	select {
	case err := <-ended:
		return err
	case <-told:
		self.leaving.Store(true)
		time.Sleep(*linger)
		return leave(*farewell)
	}
}

// leave asks for the last time. As with any program that ends, who is still connected is cut off.
func leave(farewell string) error {
	if farewell == "" {
		return nil
	}
	answer := new(strings.Builder)
	if err := request([]string{farewell}, answer); err != nil {
		return fmt.Errorf("the last request: %w", err)
	}
	if !strings.Contains(answer.String(), "StatusCode=200\n") {
		return fmt.Errorf("the last request was answered by %s", answer)
	}
	return nil
}

func (self server) http(pair *tls.Certificate) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	result := &http.Server{Handler: self, Protocols: protocols, ReadHeaderTimeout: idle, IdleTimeout: idle}
	if pair != nil {
		result.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*pair}}
	}
	return result
}

func (self server) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	local, _ := request.Context().Value(http.LocalAddrContextKey).(net.Addr)
	answer := self.common(local, request.RemoteAddr)
	answer.add("Host", request.Host)
	answer.add("URL", request.URL.RequestURI())
	answer.add("Method", request.Method)
	answer.add("Proto", request.Proto)
	if request.TLS != nil {
		answer.add("Alpn", request.TLS.NegotiatedProtocol)
	}
	answer.addHeaders("RequestHeader", request.Header)
	if body, _ := io.ReadAll(io.LimitReader(request.Body, longest)); len(body) > 0 {
		answer.add("Body", strconv.Quote(string(body)))
	}
	response.Header().Set("Content-Type", "text/plain")
	if self.leaving.Load() {
		response.Header().Set("Connection", "close")
	}
	// Who does not wait for the answer does not get it.
	_, _ = io.WriteString(response, answer.String())
}

func (self server) grpc(listener net.Listener) error {
	result := grpc.NewServer()
	result.RegisterService(&echoService, self)
	return result.Serve(listener)
}

// Echo answers over gRPC.
func (self server) Echo(ctx context.Context, message *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	caller, _ := peer.FromContext(ctx)
	headers, _ := metadata.FromIncomingContext(ctx)
	answer := self.common(caller.LocalAddr, caller.Addr.String())
	answer.add("StatusCode", http.StatusOK)
	answer.add("Host", strings.Join(headers.Get(":authority"), ","))
	headers.Delete(":authority")
	answer.add("Proto", "GRPC")
	answer.add("Echo", message.GetValue())
	answer.addHeaders("RequestHeader", headers)
	return wrapperspb.String(answer.String()), nil
}

func (self server) tcp(listener net.Listener) error {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go self.answer(connection)
	}
}

// answer tells each line back, with who told it.
func (self server) answer(connection net.Conn) {
	defer connection.Close()
	for scanner := bufio.NewScanner(connection); ; {
		if connection.SetDeadline(time.Now().Add(idle)) != nil || !scanner.Scan() {
			return
		}
		answer := self.common(connection.LocalAddr(), connection.RemoteAddr().String())
		answer.add("StatusCode", http.StatusOK)
		answer.add("Proto", "TCP")
		answer.add("Echo", scanner.Text())
		// An empty line ends the answer.
		if _, err := io.WriteString(connection, answer.String()+"\n"); err != nil {
			return
		}
	}
}

// common is what is told whatever the protocol.
func (self server) common(local net.Addr, remote string) *lines {
	told := new(lines)
	told.add("Hostname", self.hostname)
	told.add("ServiceVersion", self.version)
	told.add("Cluster", self.cluster)
	if local != nil {
		_, port, _ := net.SplitHostPort(local.String())
		told.add("ServicePort", port)
	}
	host, _, _ := net.SplitHostPort(remote)
	told.add("IP", host)
	return told
}

// identity is that of the files, or a new one: the image carries no key.
func identity(certificate, key string) (tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if !errors.Is(err, fs.ErrNotExist) {
		return pair, err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "echo"},
		DNSNames:     []string{"*"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
	}
	signed, err := x509.CreateCertificate(rand.Reader, &template, &template, private.Public(), private)
	return tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: private}, err
}

// ports is a flag that may be given more than once.
type ports []uint16

func (ports *ports) String() string { return "" }

func (ports *ports) Set(value string) error {
	port, err := strconv.ParseUint(value, 10, 16)
	*ports = append(*ports, uint16(port))
	return err
}
