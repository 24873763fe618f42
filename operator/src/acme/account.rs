//! The account that an issuer has with its CA: registered once, kept in a Secret beside the issuer, brought up to date when
//! the issuer changes.

use instant_acme::{AccountCredentials, ExternalAccountKey, NewAccount};
use jiff::Timestamp;
use serde::Deserialize as _;
use weft_crds::ObjectRef;
use weft_translate::acme::{ACCOUNT_TYPE, Account, Issuer, account_secret};

use super::{
    Report,
    error::AcmeError,
    http::Http,
    patience::Patience,
    store::{Held, Store},
};
use crate::infrastructure::names::digest;

/// An account, to be used.
pub(crate) struct Open {
    pub(crate) account: instant_acme::Account,
    pub(crate) patience: Patience,
}

/// What an account is of: another issuer of that name tries anew at once.
fn of(issuer: &Issuer) -> String {
    let binding = issuer.binding.as_ref();
    let roots = issuer.roots_pem.as_deref().unwrap_or_default();
    let binding = binding.map(|binding| (&binding.key_id, &binding.key));
    digest(&format!("{:?} {roots} {binding:?}", issuer.spec))
}

async fn held(store: &Store, reference: &ObjectRef) -> Result<Held<Account>, AcmeError> {
    let name = account_secret(&reference.name);
    let mut held: Held<Account> = store.state(name, ACCOUNT_TYPE, None).await?;
    // What cannot be read is none.
    let readable = |credentials: &serde_json::Value| AccountCredentials::deserialize(credentials).is_ok();
    held.state.credentials.take_if(|credentials| !readable(credentials));
    Ok(held)
}

/// Sees to it that there is an account as the issuer says.
pub(crate) async fn ensure(
    store: &Store,
    reference: &ObjectRef,
    issuer: &Issuer,
    now: Timestamp,
) -> Result<Report, AcmeError> {
    let mut held = held(store, reference).await?;
    if held.state.server != issuer.spec.server() {
        held.state = Account {
            server: issuer.spec.server().to_owned(),
            ..Account::default()
        };
    }
    let of = of(issuer);
    if let Some(again) = held.state.failure.as_ref().and_then(|failure| failure.holds(&of, now)) {
        return Ok(Report::at(again));
    }
    let state = &held.state;
    if state.credentials.is_some() && state.email == issuer.spec.email && state.failure.is_none() {
        return Ok(Report::done());
    }
    if !store.may_write() {
        return Err(AcmeError::NotHeld);
    }
    // Before the CA is asked: an account that cannot be written down would be registered again and again.
    store.save(&mut held).await?;
    let patience = Patience::default();
    match register(&mut held.state, issuer, &patience).await {
        Ok(()) => {
            held.state.failure = None;
            store.save(&mut held).await?;
            tracing::info!(issuer = %reference, server = issuer.spec.server(), "there is an account with the CA");
            Ok(Report::done())
        }
        Err(error) => {
            let Some(failure) = error.failure(held.state.failure.as_ref(), &of, now) else {
                return Err(error);
            };
            tracing::warn!(issuer = %reference, reason = failure.reason, %error, again = %failure.again, "there is no account with the CA");
            let again = failure.again;
            held.state.failure = Some(failure);
            store.save(&mut held).await?;
            Ok(Report::at(again))
        }
    }
}

async fn register(state: &mut Account, issuer: &Issuer, patience: &Patience) -> Result<(), AcmeError> {
    let explain = |error: instant_acme::Error| AcmeError::of(&error, patience);
    let contact: Vec<String> = issuer
        .spec
        .email
        .iter()
        .map(|email| format!("mailto:{email}"))
        .collect();
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    if state.credentials.is_some() {
        let known = restore(state, issuer, patience).await?;
        known.update_contacts(&contact).await.map_err(explain)?;
    } else {
        let http = Http::new(issuer.roots_pem.as_deref(), patience.clone())?;
        let account = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let binding = issuer.binding.as_ref();
        let binding = binding.map(|binding| ExternalAccountKey::new(binding.key_id.clone(), &binding.key));
        let made = instant_acme::Account::builder_with_http(Box::new(http))
            .create(&account, issuer.spec.server().to_owned(), binding.as_ref())
            .await;
        let (_, credentials) = made.map_err(explain)?;
        let credentials = serde_json::to_value(&credentials);
        state.credentials = Some(credentials.map_err(|error| AcmeError::refused("Refused", error.to_string()))?);
    }
    state.email.clone_from(&issuer.spec.email);
    Ok(())
}

async fn restore(state: &Account, issuer: &Issuer, patience: &Patience) -> Result<instant_acme::Account, AcmeError> {
    let credentials = state.credentials.clone().ok_or(AcmeError::NoAccount)?;
    let credentials: AccountCredentials = serde_json::from_value(credentials).map_err(|_| AcmeError::NoAccount)?;
    let http = Http::new(issuer.roots_pem.as_deref(), patience.clone())?;
    let account = instant_acme::Account::builder_with_http(Box::new(http))
        .from_credentials(credentials)
        .await;
    account.map_err(|error| AcmeError::of(&error, patience))
}

/// Uses the account of an issuer.
///
/// # Errors
/// There is none yet, or the CA cannot be reached.
pub(crate) async fn open(store: &Store, reference: &ObjectRef, issuer: &Issuer) -> Result<Open, AcmeError> {
    let held = held(store, reference).await?;
    if held.state.server != issuer.spec.server() {
        return Err(AcmeError::NoAccount);
    }
    let patience = Patience::default();
    let account = restore(&held.state, issuer, &patience).await?;
    Ok(Open { account, patience })
}

/// Forgets an account that the CA does not know: another is registered.
pub(crate) async fn forget(store: &Store, reference: &ObjectRef) -> Result<(), AcmeError> {
    let mut held = held(store, reference).await?;
    held.state.credentials = None;
    store.save(&mut held).await
}
