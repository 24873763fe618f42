//! The live view, on a terminal that `script` (util-linux) makes.
#![cfg(target_os = "linux")]

mod support;

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use support::{PATIENCE, Written, client::Http, eventually, offset, signal};

/// `weft up` on a terminal of its own.
struct Terminal {
    script: Child,
    screen: Written,
    port: u16,
}

impl Terminal {
    fn up(folder: &Path) -> Self {
        let offset = offset(&[8080]);
        let command = format!(
            "stty cols 120 rows 40; exec {} up {} --echo --admin 127.0.0.1:0 --port-offset {offset}",
            env!("CARGO_BIN_EXE_weft"),
            folder.display()
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--flush", "--return", "--command", &command, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is script, of util-linux");
        let screen = Written::gather(script.stdout.take().expect("it is piped"));
        Self {
            script,
            screen,
            port: 8080 + offset,
        }
    }

    /// Waits for its end, and says how it was.
    fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the end", || {
            status = self.script.try_wait().expect("it can be asked");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Without a terminal, weft is hung up.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

fn hello() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let from = support::root().join("examples/hello/hello.yaml");
    fs::copy(from, folder.path().join("hello.yaml")).expect("copied");
    folder
}

#[test]
fn routes_and_backends_are_shown_and_q_quits() {
    let folder = hello();
    let mut terminal = Terminal::up(folder.path());
    eventually("the view", || terminal.screen.contains("q quits"));
    let address = ([127, 0, 0, 1], terminal.port).into();
    let mut connection = Http::connect(address);
    let begun = std::time::Instant::now();
    let is_row = |name: &str, line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.first() == Some(&name)
            && words.get(2) == Some(&"100.0%")
            && words.last().is_some_and(|p99| p99.ends_with("ms"))
    };
    loop {
        assert_eq!(connection.get("a.example", "/").status, 200);
        let text = plain(&terminal.screen.text());
        let shown = |name: &str| text.lines().any(|line| is_row(name, line));
        if shown("HTTPRoute/default/hello/0") && shown("default/hello:80") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{text}");
    }
    fs::write(folder.path().join("wrong.yaml"), "apiVersion: v1\nkinds: Service\n").expect("written");
    let place = format!("{}:1:1", folder.path().join("wrong.yaml").display());
    eventually("what is wrong", || {
        terminal.screen.contains(&place) && terminal.screen.contains("error[M0003]")
    });
    let stdin = terminal.script.stdin.as_mut().expect("it is piped");
    stdin.write_all(b"q").and_then(|()| stdin.flush()).expect("it reads");
    assert_eq!(terminal.wait(), Some(0));
    eventually("the screen as it was", || terminal.screen.contains("\u{1b}[?1049l"));
}

#[test]
fn a_signal_ends_the_view_too() {
    let folder = hello();
    let mut terminal = Terminal::up(folder.path());
    eventually("the view", || terminal.screen.contains("q quits"));
    let script = terminal.script.id();
    let child = fs::read_to_string(format!("/proc/{script}/task/{script}/children")).expect("it runs");
    signal(child.trim().parse().expect("one child"), "TERM");
    assert_eq!(terminal.wait(), Some(0));
}

/// A screen without what moves the cursor.
fn plain(screen: &str) -> String {
    let mut text = String::new();
    let mut rest = screen;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        text.push_str(before);
        let end = after
            .find(|c: char| c.is_ascii_alphabetic())
            .map_or(after.len(), |at| at + 1);
        rest = &after[end..];
    }
    text + rest
}
