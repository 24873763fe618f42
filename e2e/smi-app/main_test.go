package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func send(t *testing.T, method, url, body string) string {
	t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func seen(t *testing.T, url string) (found metrics) {
	t.Helper()
	if err := json.Unmarshal([]byte(send(t, http.MethodGet, url+"/metrics", "")), &found); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestWhatIsCalledIsRemembered(t *testing.T) {
	a, b := httptest.NewServer(newApp("app-a").handler()), httptest.NewServer(newApp("app-b").handler())
	defer a.Close()
	defer b.Close()
	order := func(path, method string) string {
		return fmt.Sprintf(`{"url": %q, "method": %q, "body": "text", "headers": {}}`, b.URL+path, method)
	}
	if said := send(t, http.MethodPost, a.URL+"/call", order("/echo", "POST")); !strings.HasPrefix(said, "POST /echo HTTP/1.1\r\n") || !strings.HasSuffix(said, "\r\n\r\ntext") {
		t.Errorf("it answers %q", said)
	}
	send(t, http.MethodPost, a.URL+"/call", order("/nowhere", "GET"))
	send(t, http.MethodPost, a.URL+"/call", `{"url": "http://127.0.0.1:1/"}`)
	of := seen(t, a.URL)
	if len(of.RespSucceeded) != 1 || of.RespSucceeded[0] != (response{b.URL + "/echo", "POST", 200}) {
		t.Errorf("succeeded: %v", of.RespSucceeded)
	}
	if len(of.RespFailed) != 1 || of.RespFailed[0].Status != 404 {
		t.Errorf("failed: %v", of.RespFailed)
	}
	if len(of.ReqReceived) != 3 || of.ReqReceived[0] != "Unidentified" {
		t.Errorf("called by: %v", of.ReqReceived)
	}
	if received := seen(t, b.URL).ReqReceived; len(received) != 1 || received[0] != "app-a" {
		t.Errorf("received: %v", received)
	}
	send(t, http.MethodDelete, a.URL+"/metrics", "")
	if said := send(t, http.MethodGet, a.URL+"/metrics", ""); said != "{\"ReqReceived\":[],\"RespSucceeded\":[],\"RespFailed\":[]}\n" {
		t.Errorf("after it forgot: %s", said)
	}
}
