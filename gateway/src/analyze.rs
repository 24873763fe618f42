//! Everything that is wrong with manifests, without serving them.

use weft_crds::ObjectRef;
use weft_model::Resource;
use weft_proxy::config::Configuration;
use weft_translate::{CONTROLLER, Edit, Options, Status, Translator};

use crate::files::{Level, Loaded, Place, Problem};

/// What manifests come to.
#[derive(Debug)]
pub struct Analysis {
    /// Everything that is wrong, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// What a data plane would be told, secrets replaced.
    pub resources: Vec<Resource>,
    /// The statuses.
    pub statuses: Vec<(ObjectRef, Status)>,
}

/// A translator as standalone mode has it. Manifests may be for a cluster, which has a mesh; what is served here has none.
pub(crate) fn translator(mesh: bool) -> Translator {
    Translator::new(Options {
        controller_name: CONTROLLER.into(),
        standalone: true,
        mesh,
    })
}

/// Translates manifests and gathers what is wrong with them.
pub fn analyze(loaded: &Loaded) -> Analysis {
    let mut translator = translator(true);
    let output = translator.apply(
        loaded
            .objects()
            .map(|located| Edit::Put(located.object.clone()))
            .collect(),
    );
    let mut problems = problems(loaded, &translator);
    for rejected in Configuration::new().apply(output.changes).rejected {
        problems.push(refused(&rejected.key.to_string(), &rejected.reason));
    }
    sort(&mut problems);
    Analysis {
        problems,
        resources: translator.resources().map(Resource::redacted).collect(),
        statuses: translator
            .statuses()
            .map(|(reference, status)| (reference.clone(), status.clone()))
            .collect(),
    }
}

/// What is wrong with files and objects.
pub(crate) fn problems(loaded: &Loaded, translator: &Translator) -> Vec<Problem> {
    let mut problems = loaded.problems();
    for (reference, diagnostic) in translator.diagnostics() {
        if let Some(located) = loaded.get(reference) {
            problems.push(located.problem(diagnostic));
        }
    }
    sort(&mut problems);
    problems
}

/// What the data plane does not take, in its own words.
pub(crate) fn refused(what: &str, reason: &str) -> Problem {
    Problem {
        code: "M0101".into(),
        level: Level::Error,
        place: None,
        object: Some(what.to_owned()),
        message: reason.to_owned(),
        remedy: String::new(),
        snippet: None,
    }
}

/// Brings problems into the order of files and lines.
pub(crate) fn sort(problems: &mut Vec<Problem>) {
    let key = |problem: &Problem| {
        (
            problem
                .place
                .clone()
                .map(|Place { file, line, column }| (file, line, column)),
            problem.code.clone(),
        )
    };
    problems.sort_by_cached_key(key);
    problems.dedup();
}
