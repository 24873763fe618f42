//! Edits of the manifests while they are served.

mod support;

use std::{
    fs,
    time::{Duration, Instant},
};

use support::{
    Backend,
    client::Http,
    eventually,
    folder::{Folder, GATEWAY, certificate, plain, route, service, slice},
};

#[test]
fn routes_are_added_changed_and_removed() {
    let folder = plain();
    assert!(folder.is_served("/a", "a"));
    assert_eq!(folder.get("/b").status, 404);
    folder.write("b.yaml", &route("b", "/b", "b"));
    eventually("the new route", || folder.is_served("/b", "b"));
    folder.write("b.yaml", &route("b", "/b", "a"));
    eventually("the changed route", || folder.is_served("/b", "a"));
    fs::remove_file(folder.path("b.yaml")).expect("removed");
    eventually("the end of the route", || folder.get("/b").status == 404);
    fs::create_dir(folder.path("more")).expect("made");
    folder.write("more/c.yml", &route("c", "/c", "b"));
    eventually("the route in a new folder", || folder.is_served("/c", "b"));
    fs::remove_dir_all(folder.path("more")).expect("removed");
    eventually("the end of the route", || folder.get("/c").status == 404);
    assert!(folder.is_served("/a", "a"), "the others stay");
}

#[test]
fn edits_are_served_within_a_hundred_milliseconds() {
    let folder = plain();
    let mut connection = folder.weft().connect(80);
    let mut taken: Vec<Duration> = (0..9)
        .map(|at| {
            let service = ["b", "a"][at % 2];
            folder.write("a.yaml", &route("a", "/a", service));
            let begun = Instant::now();
            while connection.get("a.example", "/a").service() != format!("default/{service}") {
                assert!(begun.elapsed() < support::PATIENCE);
            }
            begun.elapsed()
        })
        .collect();
    taken.sort();
    // The middle one: the machine may do something else now and then.
    assert!(taken[4] < Duration::from_millis(100), "{taken:?}");
}

#[test]
fn a_file_that_does_not_parse_is_said_and_the_rest_stays() {
    let folder = plain();
    let b = route("b", "/b", "b");
    folder.write("b.yaml", &b);
    eventually("the route", || folder.is_served("/b", "b"));
    // Not closed, on the last line.
    folder.write("b.yaml", &format!("{}    filters: [\n", b));
    let place = format!("{}:10:14", folder.path("b.yaml").display());
    eventually("the place of the error", || folder.weft().stderr.contains(&place));
    let said = folder.weft().stderr.text();
    assert!(
        said.contains("error[M0002]") && said.contains("what the file held before stays in use"),
        "{said}"
    );
    assert!(folder.is_served("/b", "b"), "what it held before stays");
    assert!(
        !said.contains(['\u{1b}']),
        "no control sequences are written to what is no terminal"
    );
    folder.write("c.yaml", &route("c", "/c", "a"));
    eventually("other edits", || folder.is_served("/c", "a"));
    assert!(folder.is_served("/b", "b"));
    folder.write("b.yaml", &route("b", "/b", "a"));
    eventually("the corrected file", || folder.is_served("/b", "a"));
}

#[test]
fn an_object_that_is_invalid_is_said_with_its_line() {
    let folder = plain();
    let good = route("b", "/b", "b");
    let text = good.replace("backendRefs", "backendRef") + &route("c", "/c", "b");
    folder.write("b.yaml", &text);
    let place = format!("  --> {}:9:5\n", folder.path("b.yaml").display());
    eventually("the place", || folder.weft().stderr.contains(&place));
    eventually("what stands beside it", || folder.is_served("/c", "b"));
    let said = folder.weft().stderr.text();
    assert!(said.contains(" 9 |     backendRef: [{name: b, port: 80}]\n"), "{said}");
    assert!(said.contains("did you mean \"backendRefs\"?"), "{said}");
    let typed = good.replace("port: 80", "port: http");
    folder.write("b.yaml", &typed);
    eventually("the wrong type", || folder.weft().stderr.contains("error[M0004]"));
    folder.write("b.yaml", &good);
    eventually("the corrected file", || folder.is_served("/b", "b"));
}

#[test]
fn what_is_still_wrong_is_not_said_again() {
    let folder = plain();
    folder.write("wrong.yaml", &route("wrong", "/w", "nowhere"));
    eventually("the problem", || folder.weft().stderr.contains("error[W0306]"));
    folder.write("b.yaml", &route("b", "/b", "b"));
    eventually("another edit", || folder.is_served("/b", "b"));
    folder.write("c.yaml", "kind: Nothing\n");
    eventually("another problem", || folder.weft().stderr.contains("error[M0003]"));
    let said = folder.weft().stderr.text();
    assert_eq!(said.matches("error[W0306]").count(), 1, "{said}");
    folder.write("wrong.yaml", &route("wrong", "/w", "b"));
    eventually("that it is no more", || {
        folder.weft().stderr.contains("no longer wrong: error[W0306]")
    });
}

#[test]
fn kinds_that_are_not_read_are_named_once() {
    let folder = plain();
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\n---\n";
    folder.write("job.yaml", job);
    eventually("the kind", || folder.weft().stderr.contains("not read: batch/v1 Job"));
    folder.write("job.yaml", &job.repeat(2));
    folder.write("b.yaml", &route("b", "/b", "b"));
    eventually("another edit", || folder.is_served("/b", "b"));
    let said = folder.weft().stderr.text();
    assert_eq!(said.matches("batch/v1 Job").count(), 1, "{said}");
}

#[test]
fn a_file_that_is_written_bit_by_bit_loses_no_request() {
    let folder = plain();
    let mut connection = folder.weft().connect(80);
    for at in 0..20 {
        let text = route("a", "/a", "a") + &format!("# {at}\n");
        // As a shell does: the file is emptied, and filled after a while.
        fs::write(folder.path("a.yaml"), "").expect("written");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(15) {
            let status = connection.get("a.example", "/a").status;
            // Had this test to wait for long, the file was empty for long.
            assert!(
                status == 200 || begun.elapsed() > Duration::from_millis(30),
                "edit {at}: {status}"
            );
        }
        fs::write(folder.path("a.yaml"), text).expect("written");
        eventually("the route, if it was gone", || folder.is_served("/a", "a"));
    }
    fs::write(folder.path("a.yaml"), "").expect("written");
    eventually("the end of the route, if the file stays empty", || {
        folder.get("/a").status == 404
    });
}

#[test]
fn the_last_of_many_quick_edits_counts() {
    let folder = plain();
    for round in 0..5 {
        // Of one length, and faster than the clock of file times.
        for at in 0..200 {
            let service = if at == 199 {
                ["b", "a"][round % 2]
            } else {
                ["a", "b"][at % 2]
            };
            folder.write("a.yaml", &route("a", "/a", service));
        }
        let last = ["b", "a"][round % 2];
        let begun = Instant::now();
        eventually("the last edit", || folder.is_served("/a", last));
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "it was found by chance: {:?}",
            begun.elapsed()
        );
        for _ in 0..5 {
            assert!(folder.is_served("/a", last), "and it stays");
        }
    }
}

#[test]
fn a_file_that_is_touched_changes_nothing() {
    let folder = plain();
    let before = folder.applied();
    folder.write("a.yaml", &route("a", "/a", "a"));
    folder.write("b.yaml", &route("b", "/b", "b"));
    eventually("the other file", || folder.is_served("/b", "b"));
    assert!(folder.applied() <= before + 2.0);
}

#[test]
fn endpoints_are_swapped_without_a_lost_request() {
    let (one, two) = (Backend::new("one"), Backend::new("two"));
    let folder = Folder::new(
        &[
            (
                "gateway.yaml",
                GATEWAY.to_owned() + &service("a") + &route("a", "/a", "a"),
            ),
            ("slice.yaml", slice("a", &one)),
        ],
        &[80],
    );
    let mut connection = folder.weft().connect(80);
    assert_eq!(connection.get("a.example", "/a").text(), "one");
    for at in 0..10 {
        let (backend, body) = [(&two, "two"), (&one, "one")][at % 2];
        folder.write("slice.yaml", &slice("a", backend));
        eventually("the other endpoint", || {
            let answer = connection.get("a.example", "/a");
            assert_eq!(answer.status, 200);
            answer.text() == body
        });
    }
    fs::remove_file(folder.path("slice.yaml")).expect("removed");
    eventually("the echo", || {
        let answer = connection.get("a.example", "/a");
        assert_eq!(answer.status, 200);
        answer.text().contains("\"service\"")
    });
}

#[test]
fn listeners_come_and_go() {
    let folder = plain();
    let more = format!(
        "{GATEWAY}  - {{name: more, protocol: HTTP, port: 81}}\n{}",
        ["a", "b"].map(service).concat()
    );
    let mut kept = folder.weft().connect(80);
    assert_eq!(kept.get("a.example", "/a").status, 200);
    folder.write("gateway.yaml", &more);
    eventually("the listener", || {
        std::net::TcpStream::connect(folder.weft().address(81)).is_ok()
    });
    let mut added = folder.weft().connect(81);
    assert_eq!(added.get("a.example", "/a").status, 200);
    folder.write(
        "gateway.yaml",
        &(GATEWAY.to_owned() + &["a", "b"].map(service).concat()),
    );
    eventually("the end of the listener", || {
        std::net::TcpStream::connect(folder.weft().address(81)).is_err()
    });
    // The client is told to go, now or with the answer to a request that was on its way.
    added.send("GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n");
    if let Some(answer) = added.answer() {
        assert_eq!(answer.header("connection").as_deref(), Some("close"), "{answer:?}");
    }
    assert_eq!(
        kept.get("a.example", "/a").status,
        200,
        "other listeners keep their connections"
    );
}

#[test]
fn a_secret_that_changes_is_shown_on_new_connections() {
    let gateway = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: weft
  listeners:
  - {name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: tls}]}}
";
    let (first, secret) = certificate("a.example");
    let files = [
        (
            "gateway.yaml",
            gateway.to_owned() + &service("a") + &route("a", "/", "a"),
        ),
        ("secret.yaml", secret),
    ];
    let folder = Folder::new(&files, &[443]);
    let address = folder.weft().address(443);
    let mut kept = Http::secure(address, "a.example");
    assert!(kept.certificate() == first);
    let (second, secret) = certificate("a.example");
    folder.write("secret.yaml", &secret);
    eventually("the second certificate", || {
        Http::secure(address, "a.example").certificate() == second
    });
    let answer = kept.get("a.example", "/");
    assert_eq!(
        (answer.status, answer.service()),
        (200, "default/a".into()),
        "what is open stays open"
    );
    assert_eq!(Http::secure(address, "a.example").get("a.example", "/").status, 200);

    // One that cannot be used is said, and the listener's word is taken back when it is corrected.
    folder.write("secret.yaml", &secret.replace("tls.key: ", "tls.key: AAAA"));
    eventually("the problem", || folder.weft().stderr.contains("error[W0203]"));
    let said = folder.weft().stderr.text();
    assert!(
        !said.contains(&secret[secret.len() - 40..secret.len() - 10]),
        "nothing of a Secret is shown"
    );
    let (third, secret) = certificate("a.example");
    folder.write("secret.yaml", &secret);
    eventually("the third certificate", || {
        std::panic::catch_unwind(|| Http::secure(address, "a.example").certificate() == third).unwrap_or(false)
    });
}

#[test]
fn policies_hold_from_the_next_request_on() {
    let policy = |path: &str| {
        format!(
            "apiVersion: weft.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: p}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: edge}}]
  action: DENY
  rules: [{{httpAttributes: {{paths: [{{value: {path}}}]}}}}]
"
        )
    };
    let files = [
        ("gateway.yaml", GATEWAY.to_owned()),
        ("web.yaml", route("web", "/", "web") + &service("web")),
        ("policy.yaml", policy("/one")),
    ];
    let folder = Folder::new(&files, &[80]);
    let weft = folder.weft();
    let mut open = weft.connect(80);
    let mut ask = |path: &str| open.get("a.example", path).status;
    assert_eq!((ask("/one"), ask("/two")), (403, 200));
    folder.write("policy.yaml", &policy("/two"));
    eventually("the edit", || ask("/two") == 403);
    assert_eq!(ask("/one"), 200);
    // What is not understood of what denies denies everything.
    folder.write("policy.yaml", &policy("relative"));
    eventually("the safe side", || ask("/one") == 403);
    fs::remove_file(folder.path("policy.yaml")).expect("removed");
    eventually("there is none", || ask("/two") == 200);
}
