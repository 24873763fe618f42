// Command smi-app stands in for the application of the SMI conformance tests (layer5/learn-layer5), of which no image can be
// had. On port 9091:
//
//	POST   /call     makes the request {url, method, body, headers} in the name of $SERVICE_NAME
//	       /echo     answers with the request
//	GET    /metrics  {ReqReceived, RespSucceeded, RespFailed}: who called and asked, and what became of the requests it made
//	DELETE /metrics  forgets them
package main

import (
	"cmp"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// The header that says whose request it is.
const serviceName = "ServiceName"

// Bodies are small.
const largest = 1 << 20

// response is a request that was made and answered.
type response struct {
	URL    string
	Method string
	Status int
}

// metrics is what has happened since it was last forgotten.
type metrics struct {
	ReqReceived   []string
	RespSucceeded []response
	RespFailed    []response
}

type app struct {
	name   string
	client http.Client
	mutex  sync.Mutex
	seen   metrics
}

// order is a request that is to be made.
type order struct {
	URL     string            `json:"url"`
	Method  string            `json:"method"`
	Body    string            `json:"body"`
	Headers map[string]string `json:"headers"`
}

func newApp(name string) *app {
	a := &app{name: name, client: http.Client{Timeout: 10 * time.Second}}
	a.forget()
	return a
}

func (a *app) forget() {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	// Lists that are empty, not null.
	a.seen = metrics{ReqReceived: []string{}, RespSucceeded: []response{}, RespFailed: []response{}}
}

// received remembers whose request it is.
func (a *app) received(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a.mutex.Lock()
		a.seen.ReqReceived = append(a.seen.ReqReceived, cmp.Or(r.Header.Get(serviceName), "Unidentified"))
		a.mutex.Unlock()
		next(w, r)
	}
}

func (a *app) call(w http.ResponseWriter, r *http.Request) {
	var wanted order
	if err := json.NewDecoder(io.LimitReader(r.Body, largest)).Decode(&wanted); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	method := cmp.Or(wanted.Method, http.MethodGet)
	request, err := http.NewRequestWithContext(r.Context(), method, wanted.URL, strings.NewReader(wanted.Body))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for name, value := range wanted.Headers {
		request.Header.Set(name, value)
	}
	request.Header.Set(serviceName, a.name)
	answer, err := a.client.Do(request)
	if err != nil {
		// No answer is neither a success nor a failure of the service, as in the original.
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, largest))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	made := response{URL: wanted.URL, Method: method, Status: answer.StatusCode}
	a.mutex.Lock()
	if answer.StatusCode >= 200 && answer.StatusCode < 400 {
		a.seen.RespSucceeded = append(a.seen.RespSucceeded, made)
	} else {
		a.seen.RespFailed = append(a.seen.RespFailed, made)
	}
	a.mutex.Unlock()
	w.Write(body)
}

func (a *app) echo(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, largest)
	r.Write(w)
}

func (a *app) metrics(w http.ResponseWriter, _ *http.Request) {
	a.mutex.Lock()
	seen := metrics{
		ReqReceived:   slices.Clone(a.seen.ReqReceived),
		RespSucceeded: slices.Clone(a.seen.RespSucceeded),
		RespFailed:    slices.Clone(a.seen.RespFailed),
	}
	a.mutex.Unlock()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(seen)
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /call", a.received(a.call))
	mux.HandleFunc("/echo", a.received(a.echo))
	mux.HandleFunc("GET /metrics", a.metrics)
	mux.HandleFunc("DELETE /metrics", func(http.ResponseWriter, *http.Request) { a.forget() })
	return mux
}

func main() {
	server := http.Server{
		Addr:              ":9091",
		Handler:           newApp(os.Getenv("SERVICE_NAME")).handler(),
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}
