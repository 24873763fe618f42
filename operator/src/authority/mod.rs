//! A small CA, kept in a Secret that all replicas share: that of the operator's own certificates, and that of workloads.
//!
//! A new root is told to everybody long before anything is signed by it, and an old one until it has expired, so that
//! nobody meets a certificate whose root it does not know. Who brought a CA of their own rotates it the same way, by
//! putting the next one beside it.

pub(crate) mod pem;
mod root;
mod secret;

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

pub(crate) use self::{root::Root, secret::Store};

/// Clocks may differ by this much.
pub(crate) const SKEW: Duration = Duration::from_secs(300);

pub(crate) const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 24 * 3600)
}

/// What a CA is for, and how long what lasts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The Secret that holds it.
    pub(crate) secret: &'static str,
    /// What the names of its roots begin with.
    pub(crate) name: &'static str,
    /// How many certificates of CAs may be between a root and a leaf.
    pub(crate) below: u8,
    /// How long a root lasts,
    pub(crate) root: Duration,
    /// when the next one is made,
    pub(crate) renewal: Duration,
    /// and for how long it is told to everybody before it signs.
    pub(crate) overlap: Duration,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// A key or certificate could not be made.
    #[error("a certificate cannot be made: {0}")]
    Made(#[from] rcgen::Error),
    /// The Secret does not hold what it should.
    #[error("the Secret {secret} is damaged ({why}); correct it, or delete it, and a new CA is made")]
    Damaged { secret: &'static str, why: String },
    /// The API server said no, or nothing.
    #[error("the Secret {secret} cannot be read or written: {error}")]
    Api {
        secret: &'static str,
        #[source]
        error: kube::Error,
    },
}

/// The roots: the one that signs, the next one, and those before.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    terms: &'static Terms,
    /// Made by the operator, which then also makes the next one.
    ours: bool,
    pub(crate) current: Root,
    next: Option<Next>,
    old: Vec<CertificateDer<'static>>,
}

/// A root that is told already, but does not sign yet.
#[derive(Clone, PartialEq, Eq)]
struct Next {
    root: Root,
    /// Since when it is told.
    since: Option<OffsetDateTime>,
}

impl std::ops::Deref for Authority {
    type Target = Root;

    fn deref(&self) -> &Root {
        &self.current
    }
}

impl Authority {
    /// A new one.
    pub(crate) fn make(terms: &'static Terms, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        Ok(Self {
            terms,
            ours: true,
            current: Root::make(terms, now)?,
            next: None,
            old: Vec::new(),
        })
    }

    /// What it is to be next; none while it is to stay as it is.
    pub(crate) fn advance(&self, now: OffsetDateTime) -> Result<Option<Self>, AuthorityError> {
        let mut after = self.clone();
        let validity = self.current.validity();
        match &self.next {
            None if self.ours && now >= validity.made() + self.terms.renewal => {
                after.next = Some(Next {
                    root: Root::make(self.terms, now)?,
                    since: Some(now),
                });
            }
            Some(next) if now >= validity.end || next.since.is_some_and(|since| now >= since + self.terms.overlap) => {
                after.old.push(self.current.anchor().clone());
                after.current = next.root.clone();
                after.next = None;
            }
            Some(Next { root, since: None }) => {
                after.next = Some(Next {
                    root: root.clone(),
                    since: Some(now),
                });
            }
            _ => {}
        }
        // What cannot be read holds nothing.
        after
            .old
            .retain(|root| pem::validity(root).is_ok_and(|validity| validity.end > now));
        Ok((after != *self).then_some(after))
    }

    /// Whom others are to trust, as PEM.
    pub(crate) fn roots(&self) -> String {
        pem::write(self.anchors())
    }

    /// The same: each once.
    pub(crate) fn anchors(&self) -> Vec<&CertificateDer<'static>> {
        let next = self.next.as_ref().map(|next| next.root.anchor());
        let mut roots: Vec<&CertificateDer<'static>> = Vec::new();
        for root in [self.current.anchor()].into_iter().chain(next).chain(&self.old) {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        roots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const TERMS: Terms = Terms {
        secret: "ca",
        name: "Test",
        below: 0,
        root: days(365),
        renewal: days(243),
        overlap: days(2),
    };

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a time")
    }

    fn count(authority: &Authority) -> usize {
        authority.anchors().len()
    }

    fn tells(authority: &Authority, root: &Root) -> bool {
        authority.anchors().contains(&root.anchor())
    }

    #[test]
    fn a_new_root_is_known_everywhere_before_it_signs_and_the_old_one_until_it_ends() {
        let first = Authority::make(&TERMS, now()).expect("made");
        let early = now() + TERMS.renewal - days(1);
        assert!(first.advance(early).expect("valid").is_none());

        let at = now() + TERMS.renewal;
        let both = first.advance(at).expect("valid").expect("a next root");
        assert_eq!(count(&both), 2);
        assert!(both.current == first.current);
        assert!(both.advance(at + TERMS.overlap / 2).expect("valid").is_none());

        let at = at + TERMS.overlap;
        let moved = both.advance(at).expect("valid").expect("the next root signs");
        assert!(moved.current != first.current && moved.next.is_none());
        // Those that know both trust what is signed by either.
        assert!(tells(&both, &moved.current) && tells(&moved, &first.current));
        assert_eq!(count(&moved), 2);

        let at = now() + TERMS.root + days(1);
        let cleaned = moved.advance(at).expect("valid").expect("the old root is forgotten");
        assert_eq!(count(&cleaned), 1);
    }

    #[test]
    fn of_a_ca_that_was_brought_nothing_is_made_but_its_next_one_is_told_before_it_signs() {
        let mut brought = Authority::make(&TERMS, now()).expect("made");
        brought.ours = false;
        assert!(brought.advance(now() + days(300)).expect("valid").is_none());
        // Made long ago: what counts is since when it is told.
        brought.next = Some(Next {
            root: Root::make(&TERMS, now() - days(30)).expect("made"),
            since: None,
        });
        let told = brought.advance(now()).expect("valid").expect("it is told");
        assert!(told.current == brought.current && count(&told) == 2);
        assert!(told.advance(now() + TERMS.overlap / 2).expect("valid").is_none());
        let moved = told.advance(now() + TERMS.overlap).expect("valid").expect("it signs");
        assert!(moved.current != brought.current && tells(&moved, &brought.current));
    }

    #[test]
    fn a_root_that_has_ended_does_not_wait_for_the_next_one_to_be_told() {
        let mut authority = Authority::make(&TERMS, now()).expect("made");
        let late = now() + TERMS.root + days(1);
        authority.next = Some(Next {
            root: Root::make(&TERMS, late).expect("made"),
            since: Some(late),
        });
        let moved = authority.advance(late).expect("valid").expect("it signs");
        assert_eq!(count(&moved), 1);
    }
}
