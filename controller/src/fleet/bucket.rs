//! Who comes first: a salted hash per device, ranked within each stratum.
//!
//! The database's order is not a sample (hawkBit's first group is whatever a page query gives), and a bare hash threshold is
//! lumpy at canary size: 5 % of 60 devices by threshold is anything from 0 to 7, maybe all on one coast. So devices are
//! ranked by hash *within* their stratum, and the strata are interleaved by relative rank: any prefix of the order is spread
//! over the strata in proportion. What stays true: the order depends on the salt and the names only; a longer prefix contains
//! every shorter one (widening removes nobody); canaries come from the front and controls from the back, so they never meet
//! as long as their counts add up to at most all.
use std::collections::BTreeMap;

use leeway_protocol::digest::Hasher;

/// A device's position in the rollout's draw.
pub fn bucket(salt: &str, device: &str) -> u64 {
    let mut hasher = Hasher::default();
    // The length keeps ("ab", "c") and ("a", "bc") apart.
    hasher.update(&(salt.len() as u64).to_le_bytes());
    hasher.update(salt.as_bytes());
    hasher.update(device.as_bytes());
    let digest = hasher.finish();
    digest.as_bytes().iter().take(8).fold(0, |n, byte| (n << 8) | u64::from(*byte))
}

/// Devices in the order in which a rollout takes them, given as (stratum, device).
pub fn order<'a>(salt: &str, devices: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<&'a str> {
    let mut strata: BTreeMap<&str, Vec<(u64, &str)>> = BTreeMap::new();
    for (stratum, device) in devices {
        strata.entry(stratum).or_default().push((bucket(salt, device), device));
    }
    let mut ranked = Vec::new();
    for members in strata.values_mut() {
        members.sort_unstable();
        let size = members.len() as u64;
        // The relative rank (2i+1)/(2·size) as an exact fraction; compared by cross-multiplication below.
        ranked.extend(members.iter().enumerate().map(|(i, &(hash, device))| (2 * i as u64 + 1, 2 * size, hash, device)));
    }
    ranked.sort_unstable_by(|a, b| {
        (u128::from(a.0) * u128::from(b.1)).cmp(&(u128::from(b.0) * u128::from(a.1))).then_with(|| (a.2, a.3).cmp(&(b.2, b.3)))
    });
    ranked.into_iter().map(|(.., device)| device).collect()
}

/// How many of `members` a share allows: rounded down, but at least one for any share above zero, because a canary of nobody
/// tells nothing.
pub fn quota(share: f64, members: usize) -> usize {
    if members == 0 || share.is_nan() || share <= 0.0 {
        return 0;
    }
    // The small term keeps 0.29 * 100 = 28.999999999999996 at 29.
    let floor = (share.min(1.0) * members as f64 + 1e-9).floor() as usize;
    floor.clamp(1, members)
}
