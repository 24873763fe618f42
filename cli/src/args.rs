//! What can be said on the command line.

use std::{net::IpAddr, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use weft_proxy::{AccessLog, LogFormat, LogOutput};

use crate::cluster::{check::Check, install::Install, uninstall::Uninstall};

/// A gateway for Gateway API manifests, with a cluster or without.
#[derive(Debug, Parser)]
#[command(name = "weft", version, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a folder of manifests on this machine.
    Up(Up),
    /// Report everything that is wrong with manifests.
    Analyze(Analyze),
    /// Print what the data plane would be told, and the statuses.
    Translate(Translate),
    /// Say where a request would go, and why nowhere else.
    Explain(Explain),
    /// Print what makes Weft part of a cluster, or apply it.
    Install(Install),
    /// Say whether all is well with Weft in a cluster, and what to do where it is not.
    Check(Check),
    /// Remove Weft from a cluster.
    Uninstall(Uninstall),
}

#[derive(Debug, Parser)]
pub(crate) struct Up {
    /// Files or folders of manifests, or - for standard input.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Added to each listener's port: with 8000, a listener on port 80 is served on 8080.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) port_offset: u16,
    /// Where listeners bind.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) address: IpAddr,
    /// Cores to use [default: all].
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<NonZeroUsize>,
    /// Answer for every Service without endpoints, saying what was asked.
    #[arg(long)]
    pub(crate) echo: bool,
    /// Where metrics, health and the configuration in use are shown.
    #[arg(long, default_value = "127.0.0.1:15020", value_name = "ADDRESS")]
    pub(crate) admin: SocketAddr,
    /// How long requests in flight may take to end when stopped, like 30s or 500ms.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub(crate) drain: Duration,
    /// A line per request: off, json, or text in which {field} stands for a field of the JSON form
    /// [default: off on a terminal, json elsewhere].
    #[arg(long, value_parser = log_format, value_name = "FORMAT")]
    pub(crate) access_log: Option<Log>,
    /// The share of requests in the access log, from 0 to 1; requests that failed are always in it.
    #[arg(long, default_value_t = 1.0, value_parser = share, value_name = "SHARE")]
    pub(crate) access_log_sample: f64,
    /// No live view, even on a terminal.
    #[arg(long)]
    pub(crate) no_view: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct Analyze {
    /// Files or folders of manifests, or - for standard input.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// The form of the report.
    #[arg(long, short, value_enum, default_value_t = Report::Text)]
    pub(crate) output: Report,
}

#[derive(Debug, Parser)]
pub(crate) struct Translate {
    /// Files or folders of manifests, or - for standard input.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
}

#[derive(Debug, Parser)]
pub(crate) struct Explain {
    /// Like http://shop.example:8080/cart?id=1; the port is that of the manifests.
    pub(crate) url: String,
    /// Files or folders of manifests, or - for standard input.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// A header field, as 'name: value'.
    #[arg(long = "header", short = 'H', value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// The method.
    #[arg(long, default_value = "GET")]
    pub(crate) method: String,
    /// The form of the answer.
    #[arg(long, short, value_enum, default_value_t = Report::Text)]
    pub(crate) output: Report,
}

/// What the access log is to be: none when off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log(Option<LogFormat>);

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Report {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Up {
    /// What the access log is to be, given whether there is a live view.
    pub(crate) fn log(&self, view: bool) -> AccessLog {
        let format = match &self.access_log {
            Some(log) => log.0.clone(),
            None => Some(LogFormat::Json),
        };
        AccessLog {
            // The view has standard output to itself.
            format: format.filter(|_| !view),
            sample: self.access_log_sample,
            output: LogOutput::Stdout,
        }
    }
}

fn log_format(text: &str) -> Result<Log, String> {
    let format = match text {
        "off" => return Ok(Log(None)),
        "json" => LogFormat::Json,
        text => LogFormat::Text(text.to_owned()),
    };
    for field in text
        .split('{')
        .skip(1)
        .filter_map(|after| Some(after.split_once('}')?.0))
    {
        if !LogFormat::FIELDS.contains(&field) {
            let known = LogFormat::FIELDS.join(", ");
            return Err(format!("there is no field {field:?}; there are {known}"));
        }
    }
    if matches!(format, LogFormat::Text(_)) && !text.contains('{') {
        return Err("it is off, json, or a text with fields, like '{method} {path} {status}'".into());
    }
    Ok(Log(Some(format)))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("{text:?} is not a share: write a number from 0 to 1"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time: write it like 30s or 500ms");
    let (number, unit): (&str, fn(u64) -> Duration) = match text.strip_suffix("ms") {
        Some(number) => (number, Duration::from_millis),
        None => (text.strip_suffix('s').ok_or_else(wrong)?, Duration::from_secs),
    };
    number.parse().map(unit).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_access_log_is_off_json_or_a_text_of_known_fields() {
        assert_eq!(log_format("off"), Ok(Log(None)));
        assert_eq!(log_format("json"), Ok(Log(Some(LogFormat::Json))));
        let text = "{method} {path} by {service}";
        assert_eq!(log_format(text), Ok(Log(Some(LogFormat::Text(text.into())))));
        assert!(log_format("{methud}").is_err() && log_format("jsn").is_err());
        assert_eq!(share("0.1"), Ok(0.1));
        assert!(share("1.1").is_err() && share("NaN").is_err());
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("30").is_err() && duration("s").is_err());
    }
}
