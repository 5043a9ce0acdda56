//! What a device signs to be enrolled again under the name it has.
//!
//! The controller names a challenge that nobody has seen before, and the device signs name, key and challenge together. A
//! signature over name and key alone could be written down on the wire and shown again later, to reset the device's secret.
use crate::ids::DeviceId;
use crate::trust::envelope::pae;

/// Separates this signature from every other one the device's key makes.
const PROOF_TYPE: &str = "application/vnd.leeway.enrol.v2";

/// The longest challenge a device signs: it comes from whoever answers at the controller's address.
pub const MAX_CHALLENGE: usize = 128;

/// The bytes a device signs to prove, to whoever chose `challenge`, that it holds the key.
pub fn proof(device: &DeviceId, public_key: &str, challenge: &str) -> Vec<u8> {
    pae(PROOF_TYPE, format!("{device}\n{public_key}\n{challenge}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_signed() {
        let of = |device: &str, key: &str, challenge: &str| proof(&device.parse().unwrap(), key, challenge);
        let good = of("d1", "ab", "c1");
        assert_eq!(good, of("d1", "ab", "c1"));
        for other in [of("d2", "ab", "c1"), of("d1", "ac", "c1"), of("d1", "ab", "c2")] {
            assert_ne!(good, other);
        }
        assert!(good.starts_with(b"DSSEv1 31 application/vnd.leeway.enrol.v2 "));
    }
}
