//! Who shows a token, and whether a data plane is the one it names: its token must be of the service account made for its
//! Gateway, or of its pod.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use tokio::sync::Semaphore;
use weft_discovery::{Authenticate, DataPlane, Denied};

use crate::infrastructure::names;

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
    api: Api<TokenReview>,
    questions: Semaphore,
    /// Whose tokens are, by the tokens themselves.
    known: Mutex<HashMap<String, (Bearer, Instant)>>,
}

/// Who shows a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) namespace: String,
    pub(crate) account: String,
    /// The pod it was made for; absent on old API servers, and in tokens that are bound to nothing.
    pub(crate) pod: Option<String>,
}

impl Tokens {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            api: Api::all(client),
            questions: Semaphore::new(QUESTIONS),
            known: Mutex::default(),
        }
    }

    fn remembered(&self, token: &str, now: Instant) -> Option<Bearer> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(token)
            .filter(|(_, until)| now < *until)
            .map(|(bearer, _)| bearer.clone())
    }

    fn remember(&self, token: &str, bearer: Bearer, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() < REMEMBERED {
            known.insert(token.to_owned(), (bearer, now + CACHED));
        }
    }

    /// Whose token it is, as was found out within the last minute.
    pub(crate) async fn bearer(&self, token: &str) -> Result<Result<Bearer, String>, String> {
        let now = Instant::now();
        if let Some(bearer) = self.remembered(token, now) {
            return Ok(Ok(bearer));
        }
        let bearer = self.review(token).await?;
        if let Ok(bearer) = &bearer {
            self.remember(token, bearer.clone(), now);
        }
        Ok(bearer)
    }

    /// Whose token it is now, or why it is nobody's; an error if that cannot be found out.
    pub(crate) async fn review(&self, token: &str) -> Result<Result<Bearer, String>, String> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let parameters = PostParams::default();
        let ask = async {
            let _permit = self.questions.acquire().await;
            self.api.create(&parameters, &review).await
        };
        match tokio::time::timeout(PATIENCE, ask).await {
            Ok(Ok(review)) => Ok(read(&review.status.unwrap_or_default())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the API server does not answer".to_owned()),
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
    let pod = extra
        .get("authentication.kubernetes.io/pod-name")
        .and_then(|names| names.first());
    Ok(Bearer {
        namespace: namespace.to_owned(),
        account: account.to_owned(),
        pod: pod.cloned(),
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
    async fn authenticate(&self, token: &str, data_plane: &DataPlane) -> Result<(), Denied> {
        let bearer = self.bearer(token).await.map_err(Denied::Unavailable)?;
        bearer
            .and_then(|bearer| permits(&bearer, data_plane))
            .map_err(|why| Denied::Token(data_plane.clone(), why))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn status(user: &str, audience: &str, pod: Option<&str>) -> TokenReviewStatus {
        let extra =
            pod.map(|pod| BTreeMap::from([("authentication.kubernetes.io/pod-name".to_owned(), vec![pod.to_owned()])]));
        TokenReviewStatus {
            audiences: Some(vec![audience.to_owned()]),
            authenticated: Some(true),
            error: None,
            user: Some(UserInfo {
                username: Some(user.to_owned()),
                extra,
                ..UserInfo::default()
            }),
        }
    }

    fn judged(status: &TokenReviewStatus, gateway: &str, replica: &str) -> Result<(), String> {
        permits(&read(status)?, &DataPlane::of_gateway(gateway.into(), replica))
    }

    #[test]
    fn only_the_account_made_for_the_gateway_gets_what_it_uses() {
        let own = status("system:serviceaccount:shop:edge-weft", "weft.dev", Some("edge-weft-1"));
        assert_eq!(judged(&own, "shop/edge", "edge-weft-1"), Ok(()));
        for (gateway, replica) in [
            ("shop/other", "edge-weft-1"),
            ("other/edge", "edge-weft-1"),
            ("shop/edge", "edge-weft-2"),
        ] {
            assert!(judged(&own, gateway, replica).is_err(), "{gateway} {replica}");
        }
        for status in [
            status(
                "system:serviceaccount:shop:edge-weft",
                "https://kubernetes.default.svc",
                None,
            ),
            status("system:serviceaccount:shop:default", "weft.dev", None),
            status("admin", "weft.dev", None),
            TokenReviewStatus::default(),
        ] {
            assert!(judged(&status, "shop/edge", "edge-weft-1").is_err(), "{status:?}");
        }
    }

    #[test]
    fn a_sidecar_is_the_pod_that_its_token_was_made_for() {
        let judged = |status: &TokenReviewStatus| permits(&read(status)?, &DataPlane::sidecar("shop", "web-1"));
        for account in ["default", "web"] {
            let user = format!("system:serviceaccount:shop:{account}");
            assert_eq!(judged(&status(&user, "weft.dev", Some("web-1"))), Ok(()));
        }
        let user = "system:serviceaccount:shop:default";
        for status in [
            status(user, "weft.dev", Some("web-2")),
            status("system:serviceaccount:other:default", "weft.dev", Some("web-1")),
            status(user, "https://kubernetes.default.svc", Some("web-1")),
            status(user, "weft.dev", None),
        ] {
            assert!(judged(&status).is_err(), "{status:?}");
        }
    }
}
