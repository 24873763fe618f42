//! A hash map whose copies share what they have in common.
//!
//! Snapshots are immutable, and the next one differs from the last in one entry. [`Table`] is cut into shards of some
//! dozens of entries behind `Arc`s: a copy takes one counter per shard, and a change copies one shard, and only if
//! somebody else still looks at it. While nobody does, as during a bulk load, changes happen in place. A few entries are
//! not worth a shard: most hosts have one path, and there are thousands of hosts.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher},
    sync::Arc,
};

/// How many entries lie side by side before there are shards.
const FEW: usize = 4;
/// How many entries a shard holds on average before the number of shards doubles.
const SHARD: usize = 48;

type Shard<K, V> = HashMap<K, V, BuildHasherDefault<Folding>>;

/// See the module.
pub(super) struct Table<K, V>(Entries<K, V>);

enum Entries<K, V> {
    /// Without room for more.
    Few(Vec<(K, V)>),
    /// A power of two of them, and how many entries there are.
    Sharded(Vec<Arc<Shard<K, V>>>, usize),
}

impl<K: Hash + Eq + Clone, V: Clone> Table<K, V> {
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.0, Entries::Few(few) if few.is_empty())
    }

    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match &self.0 {
            Entries::Few(few) => few
                .iter()
                .find(|(known, _)| known.borrow() == key)
                .map(|(_, value)| value),
            Entries::Sharded(shards, _) => shards[shard_of(key, shards.len())].get(key),
        }
    }

    /// Sets a value and gives back the one it replaces.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(known) = self.get_mut(&key) {
            return Some(std::mem::replace(known, value));
        }
        self.make_room();
        match &mut self.0 {
            Entries::Few(few) => {
                few.reserve_exact(1);
                few.push((key, value));
            }
            Entries::Sharded(shards, len) => {
                let index = shard_of(&key, shards.len());
                Arc::make_mut(&mut shards[index]).insert(key, value);
                *len += 1;
            }
        }
        None
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match &mut self.0 {
            Entries::Few(few) => {
                let at = few.iter().position(|(known, _)| known.borrow() == key)?;
                Some(few.swap_remove(at).1)
            }
            Entries::Sharded(shards, len) => {
                let index = shard_of(key, shards.len());
                shards[index].get(key)?;
                let old = Arc::make_mut(&mut shards[index]).remove(key);
                *len -= 1;
                if *len == 0 {
                    *self = Self::default();
                }
                old
            }
        }
    }

    /// The value of a key, made first if there is none, to be changed. Copies its shard if it is shared.
    pub(super) fn entry(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        if self.get(key).is_none() {
            self.insert(key.clone(), make());
        }
        self.get_mut(key).expect("it was there, or has just been inserted")
    }

    /// The value of a key that is there, to be changed. Copies its shard if it is shared.
    pub(super) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        match &mut self.0 {
            Entries::Few(few) => {
                let found = few.iter_mut().find(|(known, _)| (*known).borrow() == key);
                found.map(|(_, value)| value)
            }
            Entries::Sharded(shards, _) => {
                let index = shard_of(key, shards.len());
                shards[index].get(key)?;
                Arc::make_mut(&mut shards[index]).get_mut(key)
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (few, shards) = match &self.0 {
            Entries::Few(few) => (few.as_slice(), &[][..]),
            Entries::Sharded(shards, _) => (&[][..], shards.as_slice()),
        };
        let few = few.iter().map(|(key, value)| (key, value));
        few.chain(shards.iter().flat_map(|shard| shard.iter()))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// For one entry more.
    fn make_room(&mut self) {
        let (count, len) = match &self.0 {
            Entries::Few(few) if few.len() < FEW => return,
            Entries::Few(few) => (1, few.len()),
            Entries::Sharded(shards, len) if *len < shards.len() * SHARD => return,
            Entries::Sharded(shards, len) => (shards.len() * 2, *len),
        };
        let mut shards = vec![Shard::default(); count];
        let insert = |(key, value)| drop(shards[shard_of(&key, count)].insert(key, value));
        match std::mem::take(self).0 {
            Entries::Few(few) => few.into_iter().for_each(insert),
            Entries::Sharded(before, _) => before.into_iter().flat_map(Arc::unwrap_or_clone).for_each(insert),
        }
        self.0 = Entries::Sharded(shards.into_iter().map(Arc::new).collect(), len);
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Entries::Few(Vec::new()))
    }
}

impl<K: Clone, V: Clone> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Entries::Few(few) => Entries::Few(few.clone()),
            Entries::Sharded(shards, len) => Entries::Sharded(shards.clone(), *len),
        })
    }
}

/// Takes bits that the map inside the shard does not: it uses the lowest and the seven highest.
fn shard_of<Q: Hash + ?Sized>(key: &Q, count: usize) -> usize {
    if count == 1 {
        return 0;
    }
    (BuildHasherDefault::<Folding>::default().hash_one(key) >> 32) as usize & (count - 1)
}

/// A hasher for short keys that come from the configuration: a multiplication to 128 bits per eight bytes, folded. It
/// has no secret; clients only look keys up and cannot add any.
#[derive(Clone, Copy, Default)]
pub(super) struct Folding(u64);

impl Folding {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xa076_1d64_78bd_642f;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last) ^ ((rest.len() as u64 + 1) << 56));
    }

    fn write_u8(&mut self, byte: u8) {
        // What `str` ends with. `write` tells lengths apart already.
        if byte != 0xff {
            self.mix(u64::from(byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Which end of a text a key of an [`AffixTable`] must be at.
pub(super) trait Affix {
    /// The part of `text` that is `len` bytes long and would be a key, if there can be one of that length.
    fn cut(text: &str, len: usize) -> Option<&str>;
}

/// Whole path segments at the start. Keys have no trailing slash, so that `/` is the empty key.
#[derive(Clone, Copy)]
pub(super) struct Segments;

impl Affix for Segments {
    fn cut(text: &str, len: usize) -> Option<&str> {
        // The empty key takes everything, `*` as well.
        let whole = len == 0 || len == text.len() || text.as_bytes().get(len) == Some(&b'/');
        if whole { text.get(..len) } else { None }
    }
}

/// Whole labels at the end, with the dot before them, and something in front.
#[derive(Clone, Copy)]
pub(super) struct Labels;

impl Affix for Labels {
    fn cut(text: &str, len: usize) -> Option<&str> {
        let start = text.len().checked_sub(len)?;
        if start > 0 && text.as_bytes().get(start) == Some(&b'.') {
            text.get(start..)
        } else {
            None
        }
    }
}

/// A table that finds the keys which a text starts or ends with, the longest first.
///
/// It probes only lengths that some key has, so a text of a thousand segments costs no more than a short one.
pub(super) struct AffixTable<A, V> {
    table: Table<Arc<str>, V>,
    /// Each length that keys have, descending, and how many have it.
    lengths: Vec<(usize, usize)>,
    affix: std::marker::PhantomData<A>,
}

impl<A: Affix, V: Clone> AffixTable<A, V> {
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn get(&self, key: &str) -> Option<&V> {
        self.table.get(key)
    }

    pub(super) fn entry(&mut self, key: &Arc<str>, make: impl FnOnce() -> V) -> &mut V {
        if self.table.get(key).is_none() {
            match self.lengths.binary_search_by(|(length, _)| key.len().cmp(length)) {
                Ok(index) => self.lengths[index].1 += 1,
                Err(index) => {
                    // Mostly the only one.
                    self.lengths.reserve_exact(1);
                    self.lengths.insert(index, (key.len(), 1));
                }
            }
        }
        self.table.entry(key, make)
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<V> {
        let old = self.table.remove(key)?;
        if let Ok(index) = self.lengths.binary_search_by(|(length, _)| key.len().cmp(length)) {
            self.lengths[index].1 -= 1;
            if self.lengths[index].1 == 0 {
                self.lengths.remove(index);
            }
        }
        Some(old)
    }

    /// What is known of the keys that are at the end of `text` in question, the longest first, each with its length.
    pub(super) fn matching(&self, text: &str) -> impl Iterator<Item = (usize, &V)> {
        self.lengths
            .iter()
            .filter_map(move |(length, _)| Some((*length, self.table.get(A::cut(text, *length)?)?)))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.table.values()
    }
}

impl<A, V> Default for AffixTable<A, V> {
    fn default() -> Self {
        Self {
            table: Table::default(),
            lengths: Vec::new(),
            affix: std::marker::PhantomData,
        }
    }
}

impl<A, V: Clone> Clone for AffixTable<A, V> {
    fn clone(&self) -> Self {
        Self {
            table: self.table.clone(),
            lengths: self.lengths.clone(),
            affix: self.affix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let mut table = Table::default();
        for number in 0..1000_u64 {
            table.insert(number, number);
        }
        let copy = table.clone();
        for number in 0..1000 {
            *table.entry(&number, || 0) += 1;
        }
        table.remove(&7);
        assert!((0..1000).all(|number| copy.get(&number) == Some(&number)));
        assert!(
            (0..1000)
                .filter(|number| *number != 7)
                .all(|number| table.get(&number) == Some(&(number + 1)))
        );
        assert_eq!((table.get(&7), table.iter().count()), (None, 999));
    }

    #[test]
    fn few_are_kept_as_many_are() {
        let mut table = Table::default();
        for round in 0..3 {
            for number in 0..=u64::try_from(FEW).expect("it is small") {
                assert_eq!(table.insert(number, round), None);
                let copy = table.clone();
                assert_eq!(table.insert(number, round + 1), Some(round));
                assert_eq!(
                    (copy.get(&number), table.get(&number)),
                    (Some(&round), Some(&(round + 1)))
                );
                assert_eq!(table.iter().count(), usize::try_from(number).expect("it is small") + 1);
            }
            for number in 0..=u64::try_from(FEW).expect("it is small") {
                assert_eq!(table.remove(&number), Some(round + 1));
                assert_eq!((table.remove(&number), table.get(&number)), (None, None));
            }
            assert!(table.is_empty());
        }
    }

    #[test]
    fn a_change_copies_one_shard() {
        let mut table = Table::default();
        for number in 0..5000_u64 {
            table.insert(number, number);
        }
        let copy = table.clone();
        table.insert(42, 0);
        let (Entries::Sharded(shards, _), Entries::Sharded(copied, _)) = (&table.0, &copy.0) else {
            panic!("so many are in shards");
        };
        let shared = shards.iter().zip(copied).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, copied.len() - 1);
        assert!(copied.iter().all(|shard| shard.len() < 3 * SHARD), "shards are uneven");
    }

    #[test]
    fn segments_match_whole_and_longest_first() {
        let mut table = AffixTable::<Segments, &str>::default();
        for key in ["", "/a", "/b", "/a/b", "/ab"] {
            table.entry(&key.into(), || key);
        }
        let found = |table: &AffixTable<Segments, &'static str>, path: &str| {
            table.matching(path).map(|(_, key)| *key).collect::<Vec<_>>()
        };
        assert_eq!(found(&table, "/a/b/c"), ["/a/b", "/a", ""]);
        assert_eq!(found(&table, "/a/b"), ["/a/b", "/a", ""]);
        assert_eq!(found(&table, "/a/"), ["/a", ""]);
        assert_eq!(found(&table, "/abc"), [""]);
        assert_eq!(found(&table, "*"), [""]);
        table.remove("");
        table.remove("/a");
        assert_eq!(found(&table, "/a/b"), ["/a/b"]);
        assert_eq!(found(&table, "/b/a"), ["/b"], "another of that length is still found");
        assert_eq!(table.lengths, [(4, 1), (3, 1), (2, 1)]);
    }

    #[test]
    fn labels_match_whole_but_not_the_apex() {
        let mut table = AffixTable::<Labels, &str>::default();
        for key in [".com", ".b.com"] {
            table.entry(&key.into(), || key);
        }
        let found = |host: &str| table.matching(host).map(|(_, key)| *key).collect::<Vec<_>>();
        assert_eq!(found("x.a.b.com"), [".b.com", ".com"]);
        assert_eq!(found("b.com"), [".com"]);
        assert_eq!(found("ab.com"), [".com"]);
        assert_eq!(found(".com"), [""; 0]);
    }
}
