//! Manifests, from their text to what the data plane takes. Nothing panics, and what is wrong stands within the file.

#![no_main]

use std::path::Path;

use libfuzzer_sys::{Corpus, fuzz_target};
use weft_gateway::{
    analyze::analyze,
    files::{File, Loaded},
};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else {
        return Corpus::Reject;
    };
    let path = Path::new("a.yaml");
    // YAML ends lines with CRLF, LF or CR.
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut loaded = Loaded::default();
    loaded.replace(path, Some(File::parse(path, text)));
    for problem in analyze(&loaded).problems {
        let shown = problem.to_string();
        // What the data plane does not take has no place, only a name.
        let Some(place) = problem.place else { continue };
        let line = match place.line.checked_sub(1) {
            Some(before) => lines.split('\n').nth(before),
            None => None,
        };
        let Some(line) = line else {
            panic!("there is no such line: {shown}");
        };
        assert!(
            (1..=line.chars().count() + 1).contains(&place.column),
            "there is no such column: {shown}"
        );
    }
    Corpus::Keep
});
