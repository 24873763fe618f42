//! Whom nobody is to believe any more: a ConfigMap that people write.

use std::collections::BTreeMap;

use weft_model::{Revocations, Serial, SpiffeId};

/// Its name.
pub(super) const CONFIG_MAP: &str = "weft-revocations";
/// Its entries.
const IDENTITIES: &str = "identities";
const SERIALS: &str = "serials";
/// The most that are heeded of each. A ConfigMap holds little more.
const MOST: usize = 10_000;

/// Reads it: a line each, with comments after `#`. Returns with it what cannot be read: one bad line takes no other with it.
pub(super) fn read(data: &BTreeMap<String, String>) -> (Revocations, Vec<String>) {
    let mut refused = Vec::new();
    let mut lines = |name: &str| -> Vec<String> {
        let text = data.get(name).map(String::as_str).unwrap_or_default();
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim());
        let mut lines: Vec<String> = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
        if lines.len() > MOST {
            refused.push(format!("{name} has over {MOST} lines: those after are passed over"));
            lines.truncate(MOST);
        }
        lines
    };
    let (identities, serials) = (lines(IDENTITIES), lines(SERIALS));
    let mut revoked = Revocations::default();
    for line in identities {
        match SpiffeId::parse(&line) {
            Ok(identity) => drop(revoked.identities.insert(identity)),
            Err(error) => refused.push(format!("{IDENTITIES}: {error}")),
        }
    }
    for line in serials {
        match Serial::parse(&line) {
            Ok(serial) => drop(revoked.serials.insert(serial)),
            Err(error) => refused.push(format!("{SERIALS}: {error}")),
        }
    }
    (revoked, refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_takes_nothing_else_with_it() {
        let data = BTreeMap::from([
            (
                IDENTITIES.to_owned(),
                "# stolen\nspiffe://a.b/ns/shop/sa/front # on Monday\n\nfront\n".to_owned(),
            ),
            (SERIALS.to_owned(), "0A:1B\r\nmine\n".to_owned()),
            ("notes".to_owned(), "x".to_owned()),
        ]);
        let (revoked, refused) = read(&data);
        let identity = SpiffeId::parse("spiffe://a.b/ns/shop/sa/front").expect("an identity");
        assert!(revoked.identities.contains(&identity) && revoked.identities.len() == 1);
        assert!(revoked.serials.contains(&Serial::of(&[0x0a, 0x1b])) && revoked.serials.len() == 1);
        assert_eq!(refused.len(), 2, "{refused:?}");
    }
}
