package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	// patience is for one answer.
	patience = 10 * time.Second
	// message is what is sent where there is something to send.
	message = "HelloWorld"
)

// ask makes one request and returns the lines of the answer, and those of its body.
type ask func(ctx context.Context) (answer, body string, err error)

// request makes requests and prints the answers. It fails when there is no answer, whatever the status of one.
func request(args []string, output io.Writer) error {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	method := flags.String("method", http.MethodGet, "HTTP method")
	count := flags.Int("count", 1, "number of requests")
	headers := http.Header{}
	flags.Func("H", "a header, NAME:VALUE", func(header string) error {
		name, value, found := strings.Cut(header, ":")
		if !found {
			return errors.New("it has no colon")
		}
		headers.Add(name, strings.TrimSpace(value))
		return nil
	})
	// The target comes before the flags or after them.
	var targets []string
	for rest := args; len(rest) > 0; {
		if err := flags.Parse(rest); err != nil {
			return err
		}
		if rest = flags.Args(); len(rest) > 0 {
			targets, rest = append(targets, rest[0]), rest[1:]
		}
	}
	if len(targets) != 1 {
		return fmt.Errorf("one URL is needed, not %d", len(targets))
	}
	target, err := url.Parse(targets[0])
	if err != nil {
		return err
	}
	ask, err := asker(target, *method, headers)
	if err != nil {
		return err
	}
	for i := range *count {
		if err := show(output, i, targets[0], ask); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
	}
	return nil
}

func show(output io.Writer, i int, target string, ask ask) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, body, err := ask(ctx)
	if err != nil {
		return err
	}
	text := new(bytes.Buffer)
	fmt.Fprintf(text, "[%d] Url=%s\n", i, target)
	for line := range strings.Lines(answer) {
		fmt.Fprintf(text, "[%d] %s", i, line)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(body), "\n") {
		fmt.Fprintf(text, "[%d body] %s\n", i, line)
	}
	fmt.Fprintln(text)
	_, err = text.WriteTo(output)
	return err
}

func asker(target *url.URL, method string, headers http.Header) (ask, error) {
	switch target.Scheme {
	case "http", "https":
		return overHTTP(target, method, headers), nil
	case "grpc":
		return overGRPC(target, headers)
	case "tcp":
		return overTCP(target), nil
	}
	return nil, fmt.Errorf("%s is not spoken: use http, https, grpc or tcp", target.Scheme)
}

func overHTTP(target *url.URL, method string, headers http.Header) ask {
	client := http.Client{
		// What is tested is the mesh: the certificate of the echo is nobody's.
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	return func(ctx context.Context) (answer, body string, err error) {
		request, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
		if err != nil {
			return
		}
		request.Header = headers.Clone()
		if host := headers.Get("Host"); host != "" {
			request.Host = host
		}
		response, err := client.Do(request)
		if err != nil {
			return
		}
		defer response.Body.Close()
		content, err := io.ReadAll(response.Body)
		told := new(lines)
		told.add("StatusCode", response.StatusCode)
		told.addHeaders("ResponseHeader", response.Header)
		return told.String(), string(content), err
	}
}

func overGRPC(target *url.URL, headers http.Header) (ask, error) {
	// A name is looked up by the library's own resolver, and asked for as the suite gave it.
	connection, err := grpc.NewClient("dns:///"+target.Host, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	pairs := metadata.MD{}
	for name, values := range headers {
		pairs.Append(name, values...)
	}
	return func(ctx context.Context) (answer, body string, err error) {
		response, got, told := new(wrapperspb.StringValue), metadata.MD{}, new(lines)
		ctx = metadata.NewOutgoingContext(ctx, pairs)
		err = connection.Invoke(ctx, echoMethod, wrapperspb.String(message), response, grpc.Header(&got))
		told.addHeaders("ResponseHeader", got)
		return told.String(), response.GetValue(), err
	}, nil
}

func overTCP(target *url.URL) ask {
	return func(ctx context.Context) (answer, body string, err error) {
		connection, err := new(net.Dialer).DialContext(ctx, "tcp", target.Host)
		if err != nil {
			return
		}
		defer connection.Close()
		deadline, _ := ctx.Deadline()
		if err = connection.SetDeadline(deadline); err != nil {
			return
		}
		if _, err = fmt.Fprintln(connection, message); err != nil {
			return
		}
		for scanner := bufio.NewScanner(connection); scanner.Scan() && scanner.Text() != ""; {
			body += scanner.Text() + "\n"
		}
		if body == "" {
			err = errors.New("closed without an answer")
		}
		return
	}
}
