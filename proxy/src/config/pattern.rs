//! Regular expressions over whole values.

use regex_automata::{Anchored, Input, dfa::Automaton, dfa::dense, meta, nfa::thompson, util::syntax};

/// The most bytes a fully built automaton may take; what needs more is matched by the slower engine.
const TABLE: usize = 64 * 1024;
/// The most bytes an expression's program may take. What needs more is refused.
const PROGRAM: usize = 1024 * 1024;

/// A regular expression over a whole value. Time is linear in the value, whatever the expression.
#[derive(Debug)]
pub(crate) struct Pattern(Engine);

#[derive(Debug)]
enum Engine {
    /// Built in advance: no scratch memory, so threads share nothing that changes.
    Table(Box<dense::DFA<Vec<u32>>>),
    /// For the few expressions whose automaton would be too large. It keeps a pool of scratch memory.
    Lazy(Box<meta::Regex>),
}

impl Pattern {
    /// Compiles the text. Classes such as `\d` and `.` mean ASCII and bytes, which is what paths and fields are made of.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let syntax = syntax::Config::new().unicode(false).utf8(false);
        // On its own first: a stray parenthesis must not close the group it is put into.
        if let Err(error) = syntax::parse_with(text, &syntax) {
            return Err(format!("{text:?} is not a regular expression: {error}"));
        }
        let whole = format!(r"\A(?:{text})\z");
        let table = dense::Builder::new()
            .configure(
                dense::Config::new()
                    .start_kind(regex_automata::dfa::StartKind::Anchored)
                    .dfa_size_limit(Some(TABLE))
                    .determinize_size_limit(Some(2 * TABLE)),
            )
            .syntax(syntax)
            .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(PROGRAM)))
            .build(&whole);
        if let Ok(table) = table {
            return Ok(Self(Engine::Table(Box::new(table))));
        }
        let lazy = meta::Builder::new()
            .configure(meta::Config::new().utf8_empty(false).nfa_size_limit(Some(PROGRAM)))
            .syntax(syntax)
            .build(&whole);
        match lazy {
            Ok(lazy) => Ok(Self(Engine::Lazy(Box::new(lazy)))),
            Err(error) => Err(format!(
                "{text:?} needs more memory than a match may take, simplify it: {error}"
            )),
        }
    }

    /// Whether it describes the whole of `value`.
    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        let input = Input::new(value).anchored(Anchored::Yes).earliest(true);
        match &self.0 {
            Engine::Table(table) => matches!(table.try_search_fwd(&input), Ok(Some(_))),
            Engine::Lazy(lazy) => lazy.is_match(input),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_value_must_match() {
        let pattern = Pattern::new("a|ab+").expect("it is valid");
        assert!(pattern.matches(b"a") && pattern.matches(b"abb"));
        assert!(
            !pattern.matches(b"xa") && !pattern.matches(b"ac") && !pattern.matches(b"") && !pattern.matches(b"a\n")
        );
    }

    #[test]
    fn what_is_not_an_expression_is_refused() {
        for text in ["(", ")(", "a{2000}{2000}{2000}", "[z-a]", "(?x)a # open"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_expression_with_a_large_automaton_matches_all_the_same() {
        let pattern = Pattern::new("[ab]*a[ab]{20}").expect("it is valid");
        assert!(matches!(pattern.0, Engine::Lazy(_)));
        assert!(pattern.matches(&[b'a'; 21]) && !pattern.matches(&[b'b'; 21]));
    }

    #[test]
    fn bytes_beyond_ascii_are_matched_as_bytes() {
        let pattern = Pattern::new("caf.+").expect("it is valid");
        assert!(pattern.matches("café".as_bytes()) && pattern.matches(b"caf\xe9"));
    }
}
