package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestExchange holds client and server to what the official suite reads, over each protocol.
func TestExchange(t *testing.T) {
	http, https, grpc, tcp := port(t), port(t), port(t), port(t)
	go func() {
		err := serve([]string{
			fmt.Sprint("--port=", http), fmt.Sprint("--port=", https), fmt.Sprint("--tls=", https),
			fmt.Sprint("--grpc=", grpc), fmt.Sprint("--tcp=", tcp), "--crt=/nowhere.crt", "--key=/nowhere.key",
		})
		t.Error("the server has ended:", err)
	}()
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args   []string
		expect []string
	}{
		"HTTP": {
			[]string{fmt.Sprintf("http://localhost:%d/path?q=1", http), "--method=PUT", "-H", "X-One:a", "-H", "X-One: b:c", "-H", "Host:echo"},
			[]string{"[0] StatusCode=200", "[0] ResponseHeader=Content-Type:text/plain", "[0 body] Method=PUT", "[0 body] URL=/path?q=1",
				"[0 body] Host=echo", "[0 body] Proto=HTTP/1.1", "[0 body] RequestHeader=X-One:a", "[0 body] RequestHeader=X-One:b:c",
				fmt.Sprint("[0 body] ServicePort=", http)},
		},
		"HTTPS": {
			[]string{"-H", "X-One:a", fmt.Sprintf("https://localhost:%d", https)},
			[]string{"[0] StatusCode=200", "[0 body] Method=GET", "[0 body] Proto=HTTP/2.0", "[0 body] Alpn=h2", "[0 body] RequestHeader=X-One:a"},
		},
		"gRPC": {
			[]string{fmt.Sprintf("grpc://localhost:%d", grpc), "-H", "X-One:a"},
			[]string{"[0 body] StatusCode=200", "[0 body] Echo=" + message, "[0 body] RequestHeader=x-one:a", fmt.Sprintf("[0 body] Host=localhost:%d", grpc)},
		},
		"TCP": {
			[]string{fmt.Sprintf("tcp://localhost:%d", tcp)},
			[]string{"[0 body] StatusCode=200", "[0 body] Echo=" + message, "[0 body] Proto=TCP"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			output := eventually(t, test.args)
			for _, line := range append(test.expect, "[0 body] Hostname="+hostname) {
				if !strings.Contains(output, line+"\n") {
					t.Errorf("no line %q in:\n%s", line, output)
				}
			}
			// Each answer ends with a blank line, and has none within.
			const count = 3
			output = eventually(t, append(test.args, fmt.Sprint("--count=", count)))
			if got := strings.Count(output, "\n\n"); got != count || !strings.HasSuffix(output, "\n\n") {
				t.Errorf("%d blank lines for %d answers:\n%s", got, count, output)
			}
		})
	}
	t.Run("without an answer", func(t *testing.T) {
		for _, scheme := range []string{"http", "grpc", "tcp", "gopher"} {
			if err := request([]string{fmt.Sprintf("%s://localhost:%d", scheme, port(t))}, new(strings.Builder)); err == nil {
				t.Errorf("%s: no error where nobody answers", scheme)
			}
		}
	})
}

// TestEnd holds that who is about to end tells back bodies as before, lets connections end, and asks for the last time.
func TestEnd(t *testing.T) {
	self := server{leaving: new(atomic.Bool)}
	echo := httptest.NewServer(self)
	defer echo.Close()
	for _, leaving := range []bool{false, true} {
		self.leaving.Store(leaving)
		response, err := http.Post(echo.URL, "text/plain", strings.NewReader("one\ntwo"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || !strings.Contains(string(body), `Body="one\ntwo"`) {
			t.Errorf("no body in %q: %v", body, err)
		}
		if response.Close != leaving {
			t.Errorf("the connection ends: %t, it is about to end: %t", response.Close, leaving)
		}
	}
	if err := leave(echo.URL); err != nil {
		t.Error(err)
	}
	denies := httptest.NewServer(http.NotFoundHandler())
	defer denies.Close()
	for _, wrong := range []string{denies.URL, fmt.Sprintf("http://localhost:%d", port(t))} {
		if err := leave(wrong); err == nil {
			t.Errorf("no error where %s does not say 200", wrong)
		}
	}
}

// eventually is what the client prints once the server is there.
func eventually(t *testing.T, args []string) string {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		output := new(strings.Builder)
		err := request(args, output)
		if err == nil {
			return output.String()
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// port is one that is free.
func port(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}
