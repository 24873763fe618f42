//! What somebody may see: as the API server judges it (SubjectAccessReview).

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::Semaphore, time::timeout};

use super::front::User;

/// Questions at once.
const QUESTIONS: usize = 32;
/// How long the API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    pub(super) group: &'a str,
    pub(super) version: &'a str,
    pub(super) resource: &'a str,
    pub(super) subresource: Option<&'a str>,
    /// All namespaces, if none is named.
    pub(super) namespace: Option<&'a str>,
    pub(super) name: Option<&'a str>,
    /// As it comes, and not as it is.
    pub(super) watched: bool,
}

/// Asks the API server.
pub(super) struct Access {
    api: Api<SubjectAccessReview>,
    questions: Semaphore,
}

/// Why something is not shown.
#[derive(Debug)]
pub(super) enum Refused {
    /// It may not be seen.
    Forbidden(String),
    /// It could not be found out.
    Unknown(String),
}

impl Access {
    pub(super) fn new(client: Client) -> Self {
        Self {
            api: Api::all(client),
            questions: Semaphore::new(QUESTIONS),
        }
    }

    /// Whether somebody may see it.
    pub(super) async fn judge(&self, user: &User, asked: &Asked<'_>) -> Result<(), Refused> {
        let text = |text: &str| Some(text.to_owned());
        let verb = match asked.name {
            _ if asked.watched => "watch",
            Some(_) => "get",
            None => "list",
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: text(&user.name),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    group: text(asked.group),
                    version: text(asked.version),
                    resource: text(asked.resource),
                    subresource: asked.subresource.and_then(text),
                    namespace: asked.namespace.and_then(text),
                    name: asked.name.and_then(text),
                    verb: text(verb),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let ask = async {
            let _permit = self.questions.acquire().await;
            self.api.create(&PostParams::default(), &review).await
        };
        let judged = match timeout(PATIENCE, ask).await {
            Ok(Ok(review)) => review.status.unwrap_or_default(),
            Ok(Err(error)) => return Err(Refused::Unknown(error.to_string())),
            Err(_) => return Err(Refused::Unknown("the API server does not answer".to_owned())),
        };
        if judged.allowed && judged.denied != Some(true) {
            return Ok(());
        }
        let place = match asked.namespace {
            Some(namespace) => format!("in the namespace {namespace:?}"),
            None => "in all namespaces".to_owned(),
        };
        let why = judged
            .reason
            .filter(|why| !why.is_empty())
            .map(|why| format!(": {why}"));
        let resource = match asked.subresource {
            Some(subresource) => format!("{}/{subresource}", asked.resource),
            None => asked.resource.to_owned(),
        };
        let dot = if asked.group.is_empty() { "" } else { "." };
        Err(Refused::Forbidden(format!(
            "{resource}{dot}{} is forbidden: User {:?} cannot {verb} it {place}{}",
            asked.group,
            user.name,
            why.unwrap_or_default()
        )))
    }
}
