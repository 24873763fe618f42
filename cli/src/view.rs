//! The live view: what each route and each backend does, second by second.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use crossterm::{
    cursor, event, execute, queue,
    style::Print,
    terminal::{self, Clear, ClearType},
};
use weft_gateway::standalone::Applied;
use weft_proxy::{Stats, Traffic};

use crate::analyze::summary;

/// How often keys are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The terminal, given back as it was however the view ends.
pub(crate) struct View {
    before: HashMap<String, Traffic>,
    at: Instant,
}

impl View {
    /// Takes the terminal over.
    pub(crate) fn open() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(Self {
            before: HashMap::new(),
            at: Instant::now(),
        })
    }

    /// Waits for a second, or until `q` or Ctrl-C is pressed: then the answer is true.
    pub(crate) fn wait(&self) -> io::Result<bool> {
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            if event::poll(LOOK)?
                && let event::Event::Key(key) = event::read()?
            {
                let interrupted =
                    key.code == event::KeyCode::Char('c') && key.modifiers.contains(event::KeyModifiers::CONTROL);
                if key.code == event::KeyCode::Char('q') || interrupted {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Draws what happened since the last time.
    pub(crate) fn draw(&mut self, stats: &Stats, applied: &Applied) -> io::Result<()> {
        let elapsed = self.at.elapsed().as_secs_f64().max(0.001);
        self.at = Instant::now();
        let mut lines = vec![format!(
            "weft   {} connections   {}   q quits",
            stats.connections.open,
            summary(&applied.problems)
        )];
        let routes = stats
            .routes
            .iter()
            .map(|route| (route.key.to_string(), &route.traffic))
            .collect();
        let services = stats
            .services
            .iter()
            .map(|service| (service.key.to_string(), &service.traffic))
            .collect();
        for (title, rows) in [("ROUTE", routes), ("BACKEND", services)] {
            lines.push(String::new());
            lines.extend(self.rows(title, rows, elapsed));
        }
        let (width, height) = terminal::size()?;
        let mut out = io::stdout();
        queue!(out, cursor::MoveTo(0, 0))?;
        for line in lines.iter().take(usize::from(height.saturating_sub(1))) {
            let line: String = line.chars().take(usize::from(width)).collect();
            queue!(out, Print(line), Clear(ClearType::UntilNewLine), Print("\r\n"))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()
    }

    /// A table of what each did in the window, the busiest first.
    fn rows(&mut self, title: &str, rows: Vec<(String, &Traffic)>, elapsed: f64) -> Vec<String> {
        let mut windows: Vec<_> = rows
            .into_iter()
            .map(|(name, traffic)| {
                let before = self.before.insert(name.clone(), traffic.clone()).unwrap_or_default();
                let requests = traffic.requests().saturating_sub(before.requests());
                let failures = traffic.failures.saturating_sub(before.failures);
                (name, requests, failures, traffic.latency.since(&before.latency))
            })
            .collect();
        windows.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let header = format!(
            "{title:<48} {:>9} {:>8} {:>9} {:>9} {:>9}",
            "RPS", "SUCCESS", "P50", "P95", "P99"
        );
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
        std::iter::once(header).chain(rows).collect()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // The terminal may be gone; there is nobody to tell.
        let _ = execute!(io::stdout(), terminal::LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
    }
}
