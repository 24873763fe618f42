//! Who shows a token, and whether a data plane is the one it names: its token must be of the service account made for its
//! Gateway, or of its pod. A token that another pod shows is nobody's.

mod place;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use tokio::sync::Semaphore;
use weft_discovery::{Authenticate, DataPlane, Denied, Shown};

use self::place::Place;
use crate::{infrastructure::names, metrics::Metrics};

/// What tokens must be for.
const AUDIENCE: &str = "weft.dev";
/// How long a token that was found good is not asked about again.
const CACHED: Duration = Duration::from_secs(60);
/// How many are remembered.
const REMEMBERED: usize = 4096;
/// How long the API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions at once. Whoever reaches the operator can make it ask, and the API server has other things to do.
const QUESTIONS: usize = 32;

/// Asks the API server about tokens.
pub(crate) struct Tokens {
    client: Client,
    questions: Semaphore,
    /// Whose tokens are, by the tokens themselves and by where they were shown.
    known: Mutex<HashMap<(String, IpAddr), (Bearer, Instant)>>,
    metrics: Metrics,
}

/// Who shows a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) namespace: String,
    pub(crate) account: String,
    /// The pod it was made for; absent on old API servers, and in tokens that are bound to nothing.
    pub(crate) pod: Option<String>,
    /// Which of the pods of that name.
    uid: Option<String>,
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Unproven {
    /// It is not good, or not for this.
    #[error("{0}")]
    Token(String),
    /// Another pod has shown it.
    #[error("{0}")]
    Stolen(String),
    /// That could not be found out.
    #[error("{0}")]
    Unavailable(String),
}

impl Tokens {
    pub(crate) fn new(client: Client, metrics: Metrics) -> Self {
        Self {
            client,
            questions: Semaphore::new(QUESTIONS),
            known: Mutex::default(),
            metrics,
        }
    }

    fn remembered(&self, shown: Shown<'_>, now: Instant) -> Option<Bearer> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(&(shown.token.to_owned(), shown.from))
            .filter(|(_, until)| now < *until)
            .map(|(bearer, _)| bearer.clone())
    }

    fn remember(&self, shown: Shown<'_>, bearer: Bearer, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() < REMEMBERED {
            known.insert((shown.token.to_owned(), shown.from), (bearer, now + CACHED));
        }
    }

    /// Whose token it is, as was found out within the last minute.
    pub(crate) async fn bearer(&self, shown: Shown<'_>) -> Result<Bearer, Unproven> {
        let now = Instant::now();
        if let Some(bearer) = self.remembered(shown, now) {
            return Ok(bearer);
        }
        let bearer = self.review(shown).await?;
        self.remember(shown, bearer.clone(), now);
        Ok(bearer)
    }

    /// Whose token it is now.
    pub(crate) async fn review(&self, shown: Shown<'_>) -> Result<Bearer, Unproven> {
        let ask = async {
            let _permit = self.questions.acquire().await;
            let bearer = self.whose(shown.token).await?;
            self.is_in_place(&bearer, shown.from).await?;
            Ok(bearer)
        };
        let silent = || Unproven::Unavailable("the API server does not answer".to_owned());
        tokio::time::timeout(PATIENCE, ask)
            .await
            .unwrap_or_else(|_| Err(silent()))
    }

    /// Whose token it is, wherever it was shown.
    async fn whose(&self, token: &str) -> Result<Bearer, Unproven> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let api = Api::<TokenReview>::all(self.client.clone());
        let review = api.create(&PostParams::default(), &review).await;
        let review = review.map_err(|error| Unproven::Unavailable(error.to_string()))?;
        read(&review.status.unwrap_or_default()).map_err(Unproven::Token)
    }

    /// Whether it was not another pod that has shown it.
    async fn is_in_place(&self, bearer: &Bearer, from: IpAddr) -> Result<(), Unproven> {
        let place = place::of(&self.client, bearer, from).await;
        match place.map_err(|error| Unproven::Unavailable(error.to_string()))? {
            Place::Own => Ok(()),
            Place::Gone => Err(Unproven::Token("its pod is gone".to_owned())),
            Place::Other(other) => {
                self.metrics.stolen_tokens.inc();
                let (namespace, account) = (&bearer.namespace, &bearer.account);
                let own = bearer.pod.as_deref().unwrap_or_default();
                tracing::warn!(
                    pod = %format_args!("{namespace}/{own}"), account = %format_args!("{namespace}/{account}"), shown_by = other, %from,
                    "the token of a pod was shown by another pod: it is refused; look how that came by it"
                );
                Err(Unproven::Stolen(format!(
                    "the token is of the pod {namespace}/{own}, and comes from {from}, the address of the pod {other}"
                )))
            }
        }
    }
}

/// Who the API server says it is.
fn read(status: &TokenReviewStatus) -> Result<Bearer, String> {
    if status.authenticated != Some(true) {
        return Err(status
            .error
            .clone()
            .unwrap_or_else(|| "the API server does not know it".to_owned()));
    }
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(format!("it is not for the audience {AUDIENCE}"));
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|name| name.split_once(':'));
    let (namespace, account) = account.ok_or_else(|| format!("{name} is not a service account"))?;
    let extra = user.extra.unwrap_or_default();
    let of_pod = |what: &str| {
        extra
            .get(&format!("authentication.kubernetes.io/pod-{what}"))?
            .first()
            .cloned()
    };
    Ok(Bearer {
        namespace: namespace.to_owned(),
        account: account.to_owned(),
        pod: of_pod("name"),
        uid: of_pod("uid"),
    })
}

/// Whether that is the data plane, under the name it gives itself.
fn permits(bearer: &Bearer, data_plane: &DataPlane) -> Result<(), String> {
    match data_plane {
        DataPlane::Gateway { gateway, replica } => {
            let (namespace, name) = gateway.as_str().split_once('/').unwrap_or_default();
            let account = names::child(name);
            if (bearer.namespace.as_str(), &bearer.account) != (namespace, &account) {
                return Err(format!(
                    "it is of the service account {}/{}, and not of {namespace}/{account}",
                    bearer.namespace, bearer.account
                ));
            }
            match &bearer.pod {
                Some(pod) if pod != replica => Err(format!("it is of the pod {pod}, and not of {replica}")),
                _ => Ok(()),
            }
        }
        // Whatever its account: a sidecar is beside an application and has the application's.
        DataPlane::Sidecar { namespace, pod } => match &bearer.pod {
            Some(own) if (&bearer.namespace, own) == (namespace, pod) => Ok(()),
            Some(own) => Err(format!(
                "it is of the pod {}/{own}, and not of {namespace}/{pod}",
                bearer.namespace
            )),
            None => Err("it is of no pod: a sidecar needs a projected service account token".to_owned()),
        },
    }
}

impl Authenticate for Tokens {
    async fn authenticate(&self, shown: Shown<'_>, data_plane: &DataPlane) -> Result<(), Denied> {
        let denied = |why| Denied::Token(data_plane.clone(), why);
        let bearer = self.bearer(shown).await.map_err(|unproven| match unproven {
            Unproven::Token(why) | Unproven::Stolen(why) => denied(why),
            Unproven::Unavailable(why) => Denied::Unavailable(why),
        })?;
        permits(&bearer, data_plane).map_err(denied)
    }
}
