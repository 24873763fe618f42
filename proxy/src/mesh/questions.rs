//! What a sidecar has asked its operator of addresses, and what was answered.
//!
//! Nothing being known of an address says something only once the operator has said that it is nobody's. Until then it is
//! waited for, also while the operator changes: but not without end.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    net::IpAddr,
    time::{Duration, Instant},
};

/// How long an answer is waited for on which it depends what becomes of a connection; and for so long it is waited for an
/// operator to come back.
pub(crate) const DECIDES: Duration = Duration::from_secs(5);
/// Answers that are remembered, in each of two ages: what is not used for one age is forgotten.
const ANSWERED: usize = 2048;
/// Questions that may be without an answer.
const OPEN: usize = 1024;
/// Addresses that are asked about in one message.
const AT_ONCE: usize = 256;

/// Whether there is somebody to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Operator {
    /// Nobody need be asked: all that there is has been told, or this is beside no pod.
    #[default]
    TellsAll,
    /// It answers.
    Answers,
    /// It is not reached, since then.
    Away(Instant),
}

/// What was asked and answered.
#[derive(Debug, Default)]
pub(super) struct Questions {
    pub(super) operator: Operator,
    /// Questions without an answer, and when they were asked.
    open: HashMap<IpAddr, Instant>,
    /// What is to be said.
    ask: Vec<IpAddr>,
    left: Vec<String>,
    known: Ages,
    /// The namespaces that are told of beside the pod's own, and since when.
    pub(super) joined: BTreeMap<String, Instant>,
}

/// What is to become of a connection to addresses of which nothing is known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Waits {
    /// It waits until there is something new, or until then; if there is no such time, it waits no more.
    pub(super) until: Option<Instant>,
    /// So many questions are new.
    pub(super) asked: usize,
    /// Others have waited in vain for an answer that is still missing.
    pub(super) in_vain: bool,
}

impl Questions {
    /// Asks about those of which nothing is known.
    pub(super) fn ask(&mut self, addresses: &[IpAddr], now: Instant) -> Waits {
        let mut waits = Waits::default();
        let back = match self.operator {
            Operator::TellsAll => return waits,
            Operator::Answers => None,
            // Nobody is there for now: it goes by what is known.
            Operator::Away(since) if now >= since + DECIDES => return waits,
            Operator::Away(since) => Some(since + DECIDES),
        };
        for address in addresses {
            if self.known.has(address) {
                continue;
            }
            let asked = match self.open.get(address) {
                Some(asked) => *asked,
                None => {
                    // Where there is no room it is waited for until there is.
                    if self.open.len() < OPEN {
                        self.open.insert(*address, now);
                        if back.is_none() {
                            self.ask.push(*address);
                            waits.asked += 1;
                        }
                    }
                    now
                }
            };
            let until = back.unwrap_or(asked + DECIDES);
            if until > now {
                waits.until = waits.until.max(Some(until));
            } else {
                waits.in_vain = true;
            }
        }
        waits
    }

    /// There is an answer; returns whether it was asked for.
    pub(super) fn answered(&mut self, address: IpAddr, is_somebodys: bool) -> bool {
        self.known.put(address, is_somebodys);
        self.open.remove(&address).is_some()
    }

    /// Whether the operator has said whose it is.
    pub(super) fn is_answered(&mut self, address: &IpAddr) -> bool {
        self.operator == Operator::TellsAll || self.known.has(address)
    }

    /// The operator says nothing more of an address.
    pub(super) fn forget(&mut self, address: &IpAddr) {
        self.known.remove(address);
    }

    /// Something that was told is gone: of what was somebody's it may not be known any more that it is.
    pub(super) fn forget_somebodys(&mut self) {
        self.known.keep_nobodys();
    }

    /// There is somebody to ask, who has not heard of anything that was asked before; returns how much is asked of it now.
    pub(super) fn can_ask(&mut self, now: Instant) -> usize {
        self.operator = Operator::Answers;
        self.left.clear();
        self.known = Ages::default();
        self.open.values_mut().for_each(|asked| *asked = now);
        self.ask = self.open.keys().copied().collect();
        self.ask.len()
    }

    /// All has been told.
    pub(super) fn told_all(&mut self) {
        *self = Self {
            joined: mem::take(&mut self.joined),
            ..Self::default()
        };
    }

    /// There is nobody to ask. What was answered still holds, as far as anybody knows, and what was not will be asked again.
    pub(super) fn cannot_ask(&mut self, now: Instant) {
        self.ask.clear();
        if !matches!(self.operator, Operator::Away(_)) {
            self.operator = Operator::Away(now);
        }
    }

    /// Leaves those of the namespaces that are told of. What is still to be answered may be of one of these: then none is left
    /// for now, so that no answer says that one is told of which has been left since it was given.
    pub(super) fn leave(&mut self, mut leaves: impl FnMut(&str, Instant) -> bool) -> Vec<String> {
        if self.operator != Operator::Answers || !self.open.is_empty() {
            return Vec::new();
        }
        let gone = self.joined.extract_if(.., |namespace, since| leaves(namespace, *since));
        let gone: Vec<String> = gone.map(|(namespace, _)| namespace).collect();
        if !gone.is_empty() {
            self.left.extend(gone.iter().cloned());
            self.known.keep_nobodys();
        }
        gone
    }

    /// What is to be said to the operator, and whether there is more.
    pub(super) fn say(&mut self) -> (Vec<IpAddr>, Vec<String>, bool) {
        let more = self.ask.len().saturating_sub(AT_ONCE);
        (self.ask.split_off(more), mem::take(&mut self.left), more > 0)
    }
}

/// Addresses that were asked about, with whether they are somebody's. None is kept that has not been used for long.
#[derive(Debug, Default)]
struct Ages {
    young: HashMap<IpAddr, bool>,
    old: HashMap<IpAddr, bool>,
}

impl Ages {
    /// Whether there was an answer.
    fn has(&mut self, address: &IpAddr) -> bool {
        if self.young.contains_key(address) {
            return true;
        }
        let Some(is_somebodys) = self.old.remove(address) else {
            return false;
        };
        self.put(*address, is_somebodys);
        true
    }

    fn put(&mut self, address: IpAddr, is_somebodys: bool) {
        self.young.insert(address, is_somebodys);
        if self.young.len() >= ANSWERED {
            self.old = mem::take(&mut self.young);
        }
    }

    fn remove(&mut self, address: &IpAddr) {
        self.young.remove(address);
        self.old.remove(address);
    }

    fn keep_nobodys(&mut self) {
        self.young.retain(|_, is_somebodys| !*is_somebodys);
        self.old.retain(|_, is_somebodys| !*is_somebodys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const SOON: Duration = Duration::from_millis(1);

    fn address(at: usize) -> IpAddr {
        IpAddr::from((at as u32).to_be_bytes())
    }

    /// With an operator that answers, since now.
    fn asking() -> (Questions, Instant) {
        let (mut questions, now) = (Questions::default(), Instant::now());
        assert_eq!(questions.ask(&[A], now), Waits::default(), "all is told");
        questions.can_ask(now);
        (questions, now)
    }

    fn until(questions: &mut Questions, address: IpAddr, now: Instant) -> Option<Instant> {
        questions.ask(&[address], now).until
    }

    #[test]
    fn a_question_is_waited_for_until_it_is_too_old_by_whoever_comes() {
        let (mut questions, now) = asking();
        let waits = questions.ask(&[A, B], now);
        assert_eq!(
            (waits.until, waits.asked, waits.in_vain),
            (Some(now + DECIDES), 2, false)
        );
        // Who comes later waits for the same.
        let waits = questions.ask(&[A], now + SOON);
        assert_eq!((waits.until, waits.asked), (Some(now + DECIDES), 0));
        let late = questions.ask(&[A], now + DECIDES);
        assert_eq!(
            (late.until, late.in_vain),
            (None, true),
            "others have waited for long enough"
        );
        assert!(questions.answered(A, false) && !questions.answered(A, false));
        assert_eq!(questions.ask(&[A], now + DECIDES), Waits::default());
        questions.forget(&A);
        assert!(until(&mut questions, A, now + DECIDES).is_some());
    }

    #[test]
    fn while_operators_change_questions_are_kept_and_asked_again() {
        let (mut questions, now) = asking();
        questions.ask(&[A], now);
        assert_eq!(questions.say().0, [A]);
        let away = now + SOON;
        questions.cannot_ask(away);
        // Another attempt fails.
        questions.cannot_ask(away + SOON);
        assert_eq!(until(&mut questions, A, away + SOON), Some(away + DECIDES));
        assert_eq!(until(&mut questions, B, away + SOON), Some(away + DECIDES));
        assert_eq!(questions.say().0, [] as [IpAddr; 0], "there is nobody to say it to");
        let back = away + 2 * SOON;
        assert_eq!(questions.can_ask(back), 2);
        let mut said = questions.say().0;
        said.sort_unstable();
        assert_eq!(said, [A, B]);
        assert_eq!(until(&mut questions, A, back), Some(back + DECIDES));
    }

    #[test]
    fn without_an_operator_nobody_waits_for_long_and_nobody_who_comes_later() {
        let (mut questions, now) = asking();
        questions.ask(&[A], now);
        questions.answered(A, false);
        questions.cannot_ask(now);
        assert_eq!(
            until(&mut questions, A, now),
            None,
            "the last who was asked has said that it is nobody's"
        );
        assert!(until(&mut questions, B, now).is_some());
        assert_eq!(questions.ask(&[B], now + DECIDES), Waits::default());
        // The next one may know better.
        questions.can_ask(now + 2 * DECIDES);
        assert!(until(&mut questions, A, now + 2 * DECIDES).is_some());
    }

    #[test]
    fn an_operator_that_tells_everything_is_not_asked() {
        let (mut questions, now) = asking();
        questions.joined.insert("shop".to_owned(), now);
        questions.ask(&[A], now);
        questions.told_all();
        assert_eq!(questions.ask(&[A], now), Waits::default());
        assert!(questions.joined.contains_key("shop") && questions.say().0.is_empty());
    }

    #[test]
    fn questions_are_bounded_and_who_finds_no_room_waits_for_it() {
        let (mut questions, now) = asking();
        for at in 0..OPEN {
            questions.ask(&[address(at)], now);
        }
        let waits = questions.ask(&[A], now);
        assert_eq!((waits.until, waits.asked), (Some(now + DECIDES), 0));
        let mut said = 0;
        loop {
            let (asked, _, more) = questions.say();
            said += asked.len();
            assert!(asked.len() <= AT_ONCE);
            if !more {
                break;
            }
        }
        assert_eq!(said, OPEN);
        questions.answered(address(0), false);
        assert_eq!(questions.ask(&[A], now).asked, 1);
    }

    #[test]
    fn nothing_is_left_while_something_is_to_be_answered() {
        let (mut questions, now) = asking();
        questions.joined.insert("shop".to_owned(), now);
        questions.ask(&[A], now);
        assert!(questions.leave(|_, _| true).is_empty());
        questions.answered(A, true);
        assert!(questions.leave(|_, _| false).is_empty());
        assert!(questions.is_answered(&A));
        assert_eq!(questions.leave(|namespace, _| namespace == "shop"), ["shop"]);
        assert_eq!(questions.say().1, ["shop"]);
        // Whose it was says nothing any more.
        assert!(until(&mut questions, A, now).is_some());
        questions.answered(A, false);
        questions.joined.insert("shop".to_owned(), now);
        questions.cannot_ask(now);
        assert!(questions.leave(|_, _| true).is_empty(), "nobody hears it");
    }

    #[test]
    fn that_an_address_is_somebodys_holds_until_something_is_gone() {
        let (mut questions, now) = asking();
        questions.answered(A, true);
        questions.answered(B, false);
        assert_eq!(until(&mut questions, A, now), None);
        questions.forget_somebodys();
        assert!(until(&mut questions, A, now).is_some());
        assert_eq!(until(&mut questions, B, now), None);
    }

    #[test]
    fn answers_are_bounded_and_those_in_use_stay() {
        let mut ages = Ages::default();
        ages.put(A, false);
        for at in 0..20 * ANSWERED {
            ages.put(address(at), false);
            assert!(ages.has(&A));
        }
        assert!(ages.young.len() + ages.old.len() <= 2 * ANSWERED);
        assert!(!ages.has(&address(0)));
    }
}
