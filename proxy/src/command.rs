//! What the command lines of all that run a data plane have in common.

use std::time::Duration;

use weft_model::Collector;

use crate::{
    options::{AccessLog, LogFormat, LogOutput},
    spans::{SpanOptions, SpanService},
};

/// What the access log is to be: none when off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log(pub Option<LogFormat>);

impl Log {
    /// The access log of that form, on standard output.
    pub fn sampled(&self, sample: f64) -> AccessLog {
        AccessLog {
            format: self.0.clone(),
            sample,
            output: LogOutput::Stdout,
        }
    }
}

/// Reads `off`, `json` or a text with fields.
///
/// # Errors
/// It is none of these, or names a field that there is not.
pub fn log_format(text: &str) -> Result<Log, String> {
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

/// Where spans go: nowhere when off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spans(pub Option<Collector>);

impl Spans {
    /// Those of a service, with that share of requests in which a trace is begun.
    pub fn of(&self, service: SpanService, sample: f64) -> Option<SpanOptions> {
        Some(SpanOptions {
            collector: self.0.clone()?,
            sample,
            service,
        })
    }
}

/// Reads `off` or where a collector is. Nothing is off, so that an empty variable of the environment is.
///
/// # Errors
/// It is neither.
pub fn spans(text: &str) -> Result<Spans, String> {
    match text {
        "off" | "" => Ok(Spans(None)),
        text => text
            .parse()
            .map(|collector| Spans(Some(collector)))
            .map_err(|error| format!("{error}; or off")),
    }
}

/// Reads a share.
///
/// # Errors
/// It is no number from 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("{text:?} is not a share: write a number from 0 to 1"))
}

/// Reads a time like `30s` or `500ms`.
///
/// # Errors
/// It has no unit, or no number before it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time: write it like 30s or 500ms");
    let (number, unit): (&str, fn(u64) -> Duration) = match text.strip_suffix("ms") {
        Some(number) => (number, Duration::from_millis),
        None => (text.strip_suffix('s').ok_or_else(wrong)?, Duration::from_secs),
    };
    number.parse().map(unit).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

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
