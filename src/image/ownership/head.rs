//! The object `head`: points to the newest generation and names the lease owner. Written only by conditional
//! puts.

use serde::{Deserialize, Serialize};

use super::lease::Lease;
use crate::image::crypto::store_format::version_of;
use crate::image::crypto::vault::Vault;
use crate::image::error::{Flaw, ImageError, Result};
use crate::image::hex::Hex;
use crate::image::layout::{HEAD, NUMBER_MAX, VERSION, manifest_numbers, marker_key, marker_numbers};
use crate::store::{PutMode, StoreError, Version};

const LIMIT: u64 = 64 * 1024;
/// Most bytes of a commit mark, which has no content but its seal.
const MARKER_LIMIT: u64 = 4096;
/// Attempts to replace head when another writer changes it concurrently.
const ATTEMPTS: usize = 3;

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    /// Generation 0 before the first commit. Head is created before any manifest, so manifests without a head
    /// mean that it was removed.
    #[serde(flatten)]
    state: Lease,
    /// The lease owner is about to offer a generation. A standby polls faster then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    moving: bool,
    mac: Hex<32>,
}

impl Head {
    fn new(vault: &Vault, state: Lease, moving: bool) -> Self {
        let numbers = [state.generation, state.epoch].map(u64::to_le_bytes).concat();
        let moves: &[u8] = if moving { &[1] } else { &[] };
        let bytes = [&VERSION.to_le_bytes()[..], &vault.id().0, &numbers, &state.writer.0, moves].concat();
        Self { version: VERSION, state, moving, mac: Hex(*vault.seal().mac(&bytes).as_bytes()) }
    }

    fn parse(vault: &Vault, data: &[u8]) -> Result<Self> {
        let (url, object) = (vault.url(), HEAD);
        let damaged = |flaw| ImageError::Damaged { url: url.into(), object: object.into(), flaw };
        let found = version_of(data).map_err(damaged)?;
        if found != VERSION {
            return Err(ImageError::Version { url: url.into(), object: object.into(), found, supported: VERSION });
        }
        let head: Head = serde_json::from_slice(data).map_err(|e| damaged(Flaw::Syntax(e.to_string())))?;
        // `blake3::Hash` compares in constant time.
        let expected = blake3::Hash::from_bytes(Self::new(vault, head.state, head.moving).mac.0);
        if expected != blake3::Hash::from_bytes(head.mac.0) {
            return Err(damaged(if vault.seal().encrypts() { Flaw::Seal } else { Flaw::Hash }));
        }
        bounded(head.state).map_err(damaged)?;
        Ok(head)
    }
}

/// Limits that readers enforce; writers check them too.
fn bounded(state: Lease) -> Result<Lease, Flaw> {
    Flaw::bound("generation", state.generation, NUMBER_MAX)?;
    Flaw::bound("epoch", state.epoch, NUMBER_MAX)?;
    Ok(state)
}

fn read(vault: &Vault) -> Result<Option<(Lease, Version)>> {
    Ok(read_whole(vault)?.map(|(head, version)| (head.state, version)))
}

fn read_whole(vault: &Vault) -> Result<Option<(Head, Version)>> {
    match vault.store().get(HEAD, LIMIT) {
        Ok((data, version)) => Ok(Some((Head::parse(vault, &data)?, version))),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads head, and whether its lease owner is about to offer a generation. One request, cheap enough for
/// polling. Does not detect an old head.
pub fn glance(vault: &Vault) -> Result<Option<(Lease, bool)>> {
    Ok(read_whole(vault)?.map(|(head, _)| (head.state, head.moving)))
}

/// Sets or clears in head that the owner of `lease` is about to offer a generation. A hint for standbys:
/// nothing depends on it. Does nothing if there is no head, if the lease is lost, or if head already says so.
pub fn announce(vault: &Vault, lease: &Lease, moving: bool) -> Result<()> {
    match read_whole(vault)? {
        Some((head, version)) if head.moving != moving && lease.check_against(&head.state, vault).is_ok() => {
            Ok(put(vault, head.state, moving, PutMode::Update(version))?)
        }
        _ => Ok(()),
    }
}

/// Reads head. None in a store without head and manifests. Fails if head was removed, or, in an encrypted
/// store, if it is an old one.
pub(crate) fn current(vault: &Vault) -> Result<Option<Lease>> {
    let url = || vault.url().to_owned();
    let Some((head, _)) = read(vault)? else {
        let begun = !manifest_numbers(&**vault.store())?.is_empty();
        return if begun { Err(ImageError::NoHead { url: url() }) } else { Ok(None) };
    };
    let known = marked(vault, head.generation)?;
    if known <= head.generation {
        return Ok(Some(head));
    }
    // A commit may have happened between the two reads.
    match read(vault)? {
        Some((head, _)) if head.generation >= known => Ok(Some(head)),
        _ => Err(ImageError::OldHead { url: url(), found: head.generation, known }),
    }
}

/// The highest generation marked as committed in an encrypted store, if it is above `known`; else `known`.
fn marked(vault: &Vault, known: u64) -> Result<u64> {
    if !vault.seal().encrypts() {
        return Ok(known);
    }
    let Some(number) = marker_numbers(&**vault.store())?.pop().filter(|number| *number > known) else {
        return Ok(known);
    };
    let object = marker_key(number);
    let (data, _) = vault.store().get(&object, MARKER_LIMIT)?;
    match vault.seal().open_message(&object, &data) {
        Ok(_) => Ok(number),
        Err(flaw) => Err(ImageError::Damaged { url: vault.url().into(), object, flaw }),
    }
}

/// The newest committed generation.
pub fn newest(vault: &Vault) -> Result<Option<u64>> {
    Ok(current(vault)?.map(|head| head.generation).filter(|generation| *generation > 0))
}

fn put(vault: &Vault, state: Lease, moving: bool, mode: PutMode) -> Result<(), StoreError> {
    let mut text = serde_json::to_vec(&Head::new(vault, state, moving)).expect("numbers and digits can be written");
    text.push(b'\n');
    vault.store().put(HEAD, text.into(), mode)
}

/// Reads head, and creates it first if there is none.
pub(crate) fn ensure(vault: &Vault) -> Result<Lease> {
    if let Some(head) = current(vault)? {
        return Ok(head);
    }
    match put(vault, Lease::default(), false, PutMode::Create) {
        Ok(()) | Err(StoreError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    current(vault)?.ok_or_else(|| ImageError::NoHead { url: vault.url().into() })
}

impl Lease {
    /// Reads head; see [`current`].
    pub fn of_head(vault: &Vault) -> Result<Option<Self>> {
        current(vault)
    }

    /// A lease for restoring the newest generation; None if there is none.
    pub fn for_newest(vault: &Vault) -> Result<Option<Self>> {
        Ok(Self::of_head(vault)?.filter(|head| head.generation > 0).map(|head| Self::after(&head)))
    }

    /// Writes this lease into head. Other containers notice at their next checkpoint or poll. If two
    /// containers claim at once, one gets [`ImageError::Replaced`], also in an empty store.
    pub fn claim(&self, vault: &Vault) -> Result<()> {
        if self.generation == 0 {
            ensure(vault)?;
        }
        advance(vault, self, self.generation).map(drop).map_err(|failure| failure.error)
    }

    /// Fails if a commit would be refused now, so the service is not frozen in vain.
    pub fn check(&self, vault: &Vault) -> Result<()> {
        match current(vault)? {
            Some(head) => self.check_against(&head, vault),
            None => Ok(()),
        }
    }

    /// Fails as [`next`](Self::next) does. Also fails if head has generation 0 although the manifest of this
    /// lease's generation exists: then head is an old one.
    pub(crate) fn check_against(&self, head: &Lease, vault: &Vault) -> Result<()> {
        let known = self.generation;
        if head.generation == 0 && known > 0 && manifest_numbers(&**vault.store())?.contains(&known) {
            return Err(ImageError::OldHead { url: vault.url().into(), found: 0, known });
        }
        self.next(head, known, vault.url()).map(drop)
    }
}

/// A failed put of head.
#[derive(Debug)]
pub struct NotCommitted {
    /// The cause.
    pub error: ImageError,
    /// The put may have succeeded, or may still be carried out: its reply was lost.
    pub may_count: bool,
}

impl<E: Into<ImageError>> From<E> for NotCommitted {
    fn from(error: E) -> Self {
        Self { error: error.into(), may_count: false }
    }
}

/// Points head to `generation` for the owner of `lease`, unless another container has taken over. Returns the
/// new lease.
///
/// A failed put may have succeeded, and another container may have replaced head since. Or it may be carried
/// out later, as long as head is in the state that the put replaces. The error claims only what is certain.
pub(crate) fn advance(vault: &Vault, lease: &Lease, generation: u64) -> Result<Lease, NotCommitted> {
    let mut failed: Option<(StoreError, Version)> = None;
    for _ in 0..ATTEMPTS {
        let found = read(vault).and_then(|head| head.ok_or_else(|| ImageError::NoHead { url: vault.url().into() }));
        let sent = failed.is_some();
        let (head, version) = match (found, failed.take()) {
            (Ok((_, version)), Some((error, replaced)))
                if version == replaced && !matches!(error, StoreError::Changed { .. }) =>
            {
                return Err(NotCommitted { may_count: !is_refusal(&error), error: error.into() });
            }
            (Ok(found), _) => found,
            (Err(_), Some((error, _))) => return Err(NotCommitted { error: error.into(), may_count: true }),
            (Err(error), None) => return Err(error.into()),
        };
        // Head changed, so an earlier put can no longer be carried out. But it may have succeeded before
        // another container replaced it.
        let may_count = sent && head.generation >= generation;
        let next = lease.next(&head, generation, vault.url()).map_err(|error| NotCommitted { error, may_count })?;
        let next =
            bounded(next).map_err(|flaw| ImageError::Damaged { url: vault.url().into(), object: HEAD.into(), flaw })?;
        if head == next {
            return Ok(next);
        }
        match put(vault, next, false, PutMode::Update(version.clone())) {
            Ok(()) => return Ok(next),
            Err(error) => failed = Some((error, version)),
        }
    }
    Err(failed.map_or(ImageError::Ended.into(), |(error, _)| NotCommitted { error: error.into(), may_count: true }))
}

/// Whether the put is certain to have no effect later. Only a folder's errors tell: a server may still be
/// working on an earlier attempt.
fn is_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::NoSpace { .. } | StoreError::Denied { .. } | StoreError::ReadOnly { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;
    use crate::image::test_vault;
    use proptest::prelude::*;

    fn state(generation: u64) -> Lease {
        Lease { generation, epoch: 3, writer: Hex([9; 8]) }
    }

    fn text(vault: &Vault, generation: u64) -> Vec<u8> {
        serde_json::to_vec(&Head::new(vault, state(generation), false)).unwrap()
    }

    #[test]
    fn head_is_readable() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let text = String::from_utf8(text(&vault, 12)).unwrap();
        let (known, mac) = text.split_at(text.find("mac").unwrap());
        assert_eq!(known, r#"{"version":2,"generation":12,"epoch":3,"writer":"0909090909090909",""#);
        assert_eq!(mac.len(), r#"mac":""}"#.len() + 64);
        assert_eq!(Head::parse(&vault, text.as_bytes()).unwrap().state, state(12));
    }

    #[test]
    fn a_head_of_another_store_or_by_hand_is_refused() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, two] = folders.each_ref().map(|folder| test_vault(folder.path()));
        assert!(Head::parse(&two, &text(&one, 1)).is_err());
        let by_hand = String::from_utf8(text(&one, 1)).unwrap().replace("\"generation\":1,", "\"generation\":2,");
        assert!(matches!(Head::parse(&one, by_hand.as_bytes()), Err(ImageError::Damaged { flaw: Flaw::Hash, .. })));
        let absurd = text(&one, u64::MAX);
        assert!(matches!(Head::parse(&one, &absurd), Err(ImageError::Damaged { flaw: Flaw::Bound { .. }, .. })));
    }

    #[test]
    fn what_is_about_to_move_is_told_by_its_holder_alone_and_until_the_next_change() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let lease = Lease::fresh();
        announce(&vault, &lease, true).unwrap();
        assert_eq!(glance(&vault).unwrap(), None);
        // Nobody owns it yet, and nobody does for that.
        ensure(&vault).unwrap();
        announce(&vault, &lease, true).unwrap();
        assert_eq!(glance(&vault).unwrap(), Some((Lease::default(), true)));
        lease.claim(&vault).unwrap();
        let held = glance(&vault).unwrap().unwrap().0;
        announce(&vault, &Lease { writer: Hex([3; 8]), ..held }, true).unwrap();
        assert_eq!(glance(&vault).unwrap(), Some((held, false)));
        announce(&vault, &held, true).unwrap();
        assert_eq!(glance(&vault).unwrap(), Some((held, true)));
        let next = advance(&vault, &held, 1).unwrap();
        assert_eq!(glance(&vault).unwrap(), Some((next, false)));
        let by_hand = text(&vault, 1);
        let by_hand = String::from_utf8(by_hand).unwrap().replace("\"mac\"", "\"moving\":true,\"mac\"");
        assert!(matches!(Head::parse(&vault, by_hand.as_bytes()), Err(ImageError::Damaged { .. })));
    }

    #[test]
    fn fuzz_any_text_parses_or_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        proptest!(|(data in prop::collection::vec(any::<u8>(), 0..200), text in "[{}\":,a-z0-9]{0,80}")| {
            prop_assert!(Head::parse(&vault, &data).is_err());
            prop_assert!(Head::parse(&vault, text.as_bytes()).is_err());
        });
    }

    #[test]
    fn fuzz_damaged_text_parses_to_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let whole = text(&vault, 12);
        proptest!(|(at in any::<prop::sample::Index>(), bit in 0..8, edits in fuzz::edits())| {
            let mut flipped = whole.clone();
            flipped[at.index(whole.len())] ^= 1u8 << bit;
            prop_assert!(Head::parse(&vault, &flipped).is_err());
            if let Ok(parsed) = Head::parse(&vault, &fuzz::damaged(&whole, &edits)) {
                prop_assert_eq!(parsed.state, state(12));
            }
        });
    }

    /// The MAC is right.
    #[test]
    fn fuzz_forged_numbers_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let number = || prop_oneof![any::<u64>(), 0..10u64, NUMBER_MAX - 2..NUMBER_MAX + 3];
        proptest!(|(generation in number(), epoch in number(), writer: [u8; 8])| {
            let state = Lease { generation, epoch, writer: Hex(writer) };
            let text = serde_json::to_vec(&Head::new(&vault, state, false)).unwrap();
            let fits = generation <= NUMBER_MAX && epoch <= NUMBER_MAX;
            prop_assert_eq!(Head::parse(&vault, &text).ok().map(|head| head.state), fits.then_some(state));
        });
    }

    #[test]
    fn of_those_that_claim_an_empty_store_one_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let vault = crate::image::test_vault(folder.path());
        let (one, two) = (Lease::fresh(), Lease::fresh());
        one.claim(&vault).unwrap();
        one.claim(&vault).unwrap();
        assert!(matches!(two.claim(&vault), Err(ImageError::Replaced { .. })));
        assert!(matches!(two.check(&vault), Err(ImageError::Replaced { .. })));
        one.check(&vault).unwrap();
        assert_eq!(one.next(&one, 1, "").unwrap(), Lease { generation: 1, ..one });
        // A standby takes over after the heartbeat has stopped.
        let head = Lease::of_head(&vault).unwrap().unwrap();
        let heir = Lease::after(&head);
        heir.claim(&vault).unwrap();
        assert_eq!(glance(&vault).unwrap(), Some((heir, false)));
        assert!(matches!(one.check(&vault), Err(ImageError::Replaced { .. })));
        assert_eq!(newest(&vault).unwrap(), None);
    }
}
