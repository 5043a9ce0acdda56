//! Golden bytes of the wire form, and every way an envelope must not open.
use super::*;
use crate::trust::fixture::*;
use crate::trust::metadata::Root;

fn key() -> SigningKey {
    spare(0x11)
}

fn device() -> DeviceId {
    "bellevue-07".parse().unwrap()
}

fn sealed() -> Vec<u8> {
    seal(&key(), &device(), BootId(3), 300, Kind::Window, b"\x00body\xff").unwrap()
}

/// Envelope version 1, byte for byte: format 1; kind 3; 11 bytes of device id; boot 3; counter 300 as a varint; 6 bytes of body;
/// then the signature. A change here is a new format byte, not an edit.
const GOLDEN: &str = "01030b62656c6c657675652d303703ac020600626f6479ff";
const GOLDEN_SIGNATURE: &str =
    "15c6e3a04a58c5577d3c51b0a22cc879e700c0c0d8c4b8866bf139005d63d72d3356b31b21e348f21460b3ae502d6a40d1d31cc253129e56add9e52383798d08";

#[test]
fn the_wire_form_is_frozen() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (payload, signature) = sealed().split_last_chunk::<64>().map(|(payload, signature)| (hex(payload), hex(signature))).unwrap();
    assert_eq!((payload.as_str(), signature.as_str()), (GOLDEN, GOLDEN_SIGNATURE));
    assert_eq!(pae("http://example.com/HelloWorld", b"hello world"), b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    let types: Vec<&str> = Kind::ALL.iter().map(|kind| kind.payload_type()).collect();
    assert_eq!(
        types,
        [
            "application/vnd.leeway.status.v1+json",
            "application/vnd.leeway.reported.v1+json",
            "application/vnd.leeway.window.v1+postcard",
            "application/vnd.leeway.capture.v1+postcard",
            "application/vnd.leeway.event.v1+json",
            "application/vnd.leeway.receipt.v1+json",
        ]
    );
}

#[test]
fn what_was_sealed_is_opened_and_decoded() {
    let opened = open(&sealed(), &device(), Kind::Window, &key().public()).unwrap();
    assert_eq!((opened.boot, opened.counter, opened.body.as_slice()), (BootId(3), 300, &b"\x00body\xff"[..]));
    assert_eq!(opened.clone().map(|opened| opened.body.len()).into_inner(), 6);
    assert_eq!(opened.try_map(|opened| String::from_utf8(opened.body)).unwrap_err().utf8_error().valid_up_to(), 5);
    for channel in Channel::ALL {
        assert_eq!(Kind::of(channel).is_none(), channel == Channel::Desired);
    }
}

#[test]
fn every_other_device_kind_and_key_is_refused() {
    let bytes = sealed();
    let refused = |device: &DeviceId, kind, key: &PublicKey| open(&bytes, device, kind, key).unwrap_err().to_string();
    let (mine, other): (_, DeviceId) = (key().public(), "bellevue-08".parse().unwrap());
    assert!(refused(&other, Kind::Window, &mine).contains("device bellevue-07, but its topic names bellevue-08"));
    assert!(refused(&device(), Kind::Capture, &mine).contains("kind 3"));
    assert!(refused(&device(), Kind::Window, &stranger().public()).contains("somebody else"));
    // The same payload signed for another kind: the type is part of what is signed.
    let (payload, _) = bytes.split_last_chunk::<64>().unwrap();
    let confused = [payload, key().sign(&pae(Kind::Capture.payload_type(), &payload[1..])).as_bytes()].concat();
    assert!(matches!(open(&confused, &device(), Kind::Window, &mine), Err(EnvelopeError::Signature(_))));
    let bare = [payload, key().sign(&payload[1..]).as_bytes()].concat();
    assert!(matches!(open(&bare, &device(), Kind::Window, &mine), Err(EnvelopeError::Signature(_))));
}

#[test]
fn no_flipped_byte_and_no_cut_is_opened() {
    let mut bytes = sealed();
    let opened = |bytes: &[u8]| open(bytes, &device(), Kind::Window, &key().public()).is_ok();
    assert!(opened(&bytes));
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert!(!opened(&bytes), "byte {at} bit {bit}");
            bytes[at] ^= 1 << bit;
        }
        assert!(!opened(&bytes[..at]), "cut to {at}");
    }
    let longer = [bytes.as_slice(), b"\0"].concat();
    assert!(!opened(&longer));
    assert!(matches!(open(&[2; 100], &device(), Kind::Window, &key().public()), Err(EnvelopeError::Format(2))));
    assert!(matches!(open(&[], &device(), Kind::Window, &key().public()), Err(EnvelopeError::Unreadable)));
}

#[test]
fn length_is_bounded_on_both_sides() {
    let seal_of = |len: usize| seal(&key(), &device(), BootId(1), 1, Kind::Capture, &vec![0; len]);
    let overhead = seal_of(MAX_ENVELOPE_BYTES / 2).unwrap().len() - MAX_ENVELOPE_BYTES / 2;
    let largest = seal_of(MAX_ENVELOPE_BYTES - overhead).unwrap();
    assert_eq!(largest.len(), MAX_ENVELOPE_BYTES);
    assert!(open(&largest, &device(), Kind::Capture, &key().public()).is_ok());
    assert!(matches!(seal_of(MAX_ENVELOPE_BYTES - overhead + 1), Err(EnvelopeError::TooLong(_))));
    assert!(matches!(open(&vec![1; MAX_ENVELOPE_BYTES + 1], &device(), Kind::Capture, &key().public()), Err(EnvelopeError::TooLong(_))));
}

#[test]
fn a_receipt_is_signed_by_the_director_and_meant_for_one_device() {
    let world = World::empty();
    let root = claims::<Root>(&world.keys.director_root);
    let keys = root.keys_of("targets");
    let receipt = seal(world.key("director"), &device(), BootId(1), 1, Kind::Receipt, b"{}").unwrap();
    assert!(open_by_role(&receipt, &device(), Kind::Receipt, &keys).is_ok());
    assert!(open_by_role(&receipt, &"bellevue-08".parse().unwrap(), Kind::Receipt, &keys).is_err());
    let forged = seal(world.key("timestamp"), &device(), BootId(1), 1, Kind::Receipt, b"{}").unwrap();
    assert!(matches!(open_by_role(&forged, &device(), Kind::Receipt, &keys), Err(EnvelopeError::Signature(_))));
}
