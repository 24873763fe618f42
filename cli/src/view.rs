//! The live view: what each route and each backend does, second by second.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use crossterm::{
    cursor,
    event::{self, Event, KeyCode, KeyModifiers},
    execute, queue,
    style::Print,
    terminal::{self, Clear, ClearType},
};
use weft_gateway::files::Problem;
use weft_proxy::{Stats, Traffic};

use crate::{analyze::summary, report::first_line};

/// How often it is drawn.
const REFRESH: Duration = Duration::from_secs(1);
/// How long a key is waited for at a time.
const LOOK: Duration = Duration::from_millis(100);

/// The terminal, given back as it was however the view ends.
pub(crate) struct View {
    windows: Windows,
    at: Instant,
}

impl View {
    /// Takes the terminal over.
    pub(crate) fn open() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let view = Self {
            windows: Windows::default(),
            at: Instant::now(),
        };
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(view)
    }

    /// Whether it is time to draw again.
    pub(crate) fn is_due(&self) -> bool {
        self.at.elapsed() >= REFRESH
    }

    /// Waits a little for `q` or Ctrl-C.
    pub(crate) fn is_quit(&self) -> io::Result<bool> {
        if !event::poll(LOOK)? {
            return Ok(false);
        }
        Ok(match event::read()? {
            Event::Key(key) => {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                key.code == KeyCode::Char('q') || key.code == KeyCode::Char('c') && control
            }
            _ => false,
        })
    }

    /// Draws what happened since the last time.
    pub(crate) fn draw(&mut self, stats: &Stats, problems: &[Problem]) -> io::Result<()> {
        let elapsed = self.at.elapsed();
        self.at = Instant::now();
        let (width, height) = terminal::size()?;
        let lines = self
            .windows
            .lines(stats, problems, elapsed, usize::from(height.saturating_sub(1)));
        let mut out = io::stdout();
        queue!(out, cursor::MoveTo(0, 0))?;
        for line in lines {
            let line: String = line.chars().take(usize::from(width)).collect();
            queue!(out, Print(line), Clear(ClearType::UntilNewLine), Print("\r\n"))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // The terminal may be gone; there is nobody to tell.
        let _ = execute!(io::stdout(), terminal::LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
    }
}

/// What was counted when it was last looked at.
#[derive(Default)]
struct Windows(HashMap<String, Traffic>);

impl Windows {
    /// The lines of the view, no more than there is space for.
    fn lines(&mut self, stats: &Stats, problems: &[Problem], elapsed: Duration, height: usize) -> Vec<String> {
        let mut lines = vec![format!(
            "weft   {} connections   {}   q quits",
            stats.connections.open,
            summary(problems)
        )];
        lines.extend(wrong(problems, height / 3));
        let routes = stats.routes.iter();
        let routes = routes.map(|route| (route.key.to_string(), &route.traffic)).collect();
        let services = stats.services.iter();
        let services = services
            .map(|service| (service.key.to_string(), &service.traffic))
            .collect();
        let (routes, services) = (self.rows(routes, elapsed), self.rows(services, elapsed));
        // Many routes leave half of the space to the backends.
        let space = height.saturating_sub(lines.len() + 4);
        let for_services = services.len().min((space / 2).max(space.saturating_sub(routes.len())));
        for (title, rows, space) in [
            ("ROUTE", routes, space - for_services),
            ("BACKEND", services, for_services),
        ] {
            lines.push(String::new());
            lines.push(format!(
                "{title:<48} {:>9} {:>8} {:>9} {:>9} {:>9}",
                "RPS", "SUCCESS", "P50", "P95", "P99"
            ));
            lines.extend(rows.into_iter().take(space));
        }
        lines.truncate(height);
        lines
    }

    /// What each did in the window, the busiest first.
    fn rows(&mut self, rows: Vec<(String, &Traffic)>, elapsed: Duration) -> Vec<String> {
        let elapsed = elapsed.as_secs_f64().max(0.001);
        let mut windows: Vec<_> = rows
            .into_iter()
            .map(|(name, traffic)| {
                let before = self.0.insert(name.clone(), traffic.clone()).unwrap_or_default();
                let requests = traffic.requests().saturating_sub(before.requests());
                let failures = traffic.failures.saturating_sub(before.failures);
                (name, requests, failures, traffic.latency.since(&before.latency))
            })
            .collect();
        windows.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let rows = windows.into_iter().map(|(name, requests, failures, latency)| {
            let success = match requests {
                0 => "-".to_owned(),
                requests => format!(
                    "{:.1}%",
                    100.0 * (requests.saturating_sub(failures)) as f64 / requests as f64
                ),
            };
            let quantile = |share| match latency.count() {
                0 => "-".to_owned(),
                _ => format!("{:.1}ms", latency.quantile(share).as_secs_f64() * 1000.0),
            };
            let rps = requests as f64 / elapsed;
            format!(
                "{name:<48} {rps:>9.1} {success:>8} {:>9} {:>9} {:>9}",
                quantile(0.5),
                quantile(0.95),
                quantile(0.99)
            )
        });
        rows.collect()
    }
}

/// What is wrong: whole, while there is space, else in a line each.
fn wrong(problems: &[Problem], space: usize) -> Vec<String> {
    let whole: Vec<String> = problems
        .iter()
        .flat_map(|problem| {
            std::iter::once(String::new()).chain(problem.to_string().lines().map(str::to_owned).collect::<Vec<_>>())
        })
        .collect();
    if whole.len() <= space {
        return whole;
    }
    let mut lines: Vec<String> = std::iter::once(String::new())
        .chain(problems.iter().map(|problem| match &problem.place {
            Some(place) => format!("{place}: {}", first_line(problem)),
            None => first_line(problem),
        }))
        .collect();
    if lines.len() > space {
        let more = lines.len() - space + 1;
        lines.truncate(space.saturating_sub(1));
        lines.push(format!("and {more} more: see `weft analyze`"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use weft_gateway::files::File;
    use weft_model::ServiceKey;
    use weft_proxy::{RouteStats, ServiceStats};

    use super::*;

    fn traffic(ok: u64, failed: u64) -> Traffic {
        Traffic {
            classes: [0, ok, 0, 0, failed],
            failures: failed,
            ..Traffic::default()
        }
    }

    fn stats(routes: usize, ok: u64, failed: u64) -> Stats {
        let route = |at| RouteStats {
            key: format!("HTTPRoute/shop/r{at}/0").into(),
            traffic: if at == 1 { traffic(ok, failed) } else { traffic(0, 0) },
            backends: std::collections::BTreeMap::new(),
        };
        Stats {
            routes: (0..routes).map(route).collect(),
            services: vec![ServiceStats {
                key: ServiceKey::new("shop", "web", 80),
                traffic: traffic(ok, failed),
                endpoints: 1,
            }],
            ..Stats::default()
        }
    }

    #[test]
    fn rows_are_of_the_last_second_and_the_busiest_come_first() {
        let mut windows = Windows::default();
        let second = Duration::from_secs(1);
        windows.lines(&stats(2, 100, 0), &[], second, 40);
        let lines = windows.lines(&stats(2, 130, 10), &[], 2 * second, 40);
        let row = |at: usize| lines[at].split_whitespace().collect::<Vec<_>>();
        assert!(lines[0].starts_with("weft   0 connections   0 errors, 0 warnings, 0 notes   q quits"));
        assert_eq!(row(2), ["ROUTE", "RPS", "SUCCESS", "P50", "P95", "P99"]);
        assert_eq!(row(3)[..3], ["HTTPRoute/shop/r1/0", "20.0", "75.0%"]);
        assert_eq!(row(4), ["HTTPRoute/shop/r0/0", "0.0", "-", "-", "-", "-"]);
        assert_eq!(row(6)[0], "BACKEND");
        assert_eq!(row(7)[..3], ["shop/web:80", "20.0", "75.0%"]);
    }

    #[test]
    fn many_routes_leave_space_for_the_backends() {
        let lines = Windows::default().lines(&stats(5000, 1, 0), &[], REFRESH, 23);
        assert_eq!(lines.len(), 23);
        assert!(lines[22].starts_with("shop/web:80"), "{lines:#?}");
        assert!(
            Windows::default().lines(&stats(50, 1, 0), &[], REFRESH, 2).len() <= 2,
            "in a window of no size too"
        );
    }

    #[test]
    fn what_is_wrong_is_shown() {
        let text = "apiVersion: v1\n---\n".repeat(20);
        let problems = File::parse(Path::new("a.yaml"), text).problems;
        assert_eq!(problems.len(), 20);
        let lines = Windows::default().lines(&stats(2, 1, 0), &problems[..1], REFRESH, 40);
        assert!(
            lines[2].starts_with("error[M0003]: ") && lines[3] == "  --> a.yaml:1:1",
            "{lines:#?}"
        );
        assert!(lines.iter().any(|line| line == " 1 | apiVersion: v1"), "{lines:#?}");
        let lines = Windows::default().lines(&stats(2, 1, 0), &problems, REFRESH, 40);
        assert!(lines[2].starts_with("a.yaml:1:1: error[M0003]: "), "{lines:#?}");
        assert!(
            lines[13].starts_with("and ") && lines.iter().any(|line| line.starts_with("ROUTE")),
            "{lines:#?}"
        );
    }
}
