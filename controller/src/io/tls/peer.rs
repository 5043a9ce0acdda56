//! Who is at the other end, by its certificate.
//!
//! That the device authority signed it, and that it is not over, was checked in the handshake. Here it is read: a certificate is a
//! device's only if common name, organisation and URI say the same, so that neither the controller's own certificate at a broker
//! nor anything a careless operator signs by hand with the same key is taken for a device.
use leeway_protocol::enrolment::device_uri;
use leeway_protocol::ids::{DeviceId, Tenant};
use leeway_protocol::time::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authority::hex;

/// A device, as its certificate names it. Whether that certificate still counts is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Which device.
    pub device: DeviceId,
    /// The certificate's number, in hex.
    pub serial: String,
    /// Its end.
    pub not_after: Timestamp,
}

impl Peer {
    /// Read the first certificate of a chain; `None` if it is no device's of this tenant.
    pub fn of(chain: &[CertificateDer<'_>], tenant: &Tenant) -> Option<Self> {
        Self::read(chain.first()?, tenant)
    }

    /// Read one certificate (DER).
    pub fn read(der: &[u8], tenant: &Tenant) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let one = |mut texts: Vec<&str>| texts.pop().filter(|_| texts.is_empty()).map(str::to_owned);
        let name = one(subject.iter_common_name().filter_map(|n| n.as_str().ok()).collect())?;
        let organisation = one(subject.iter_organization().filter_map(|n| n.as_str().ok()).collect())?;
        let device: DeviceId = name.parse().ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let [GeneralName::URI(uri)] = names.value.general_names[..] else { return None };
        let is_ours = rest.is_empty() && organisation == tenant.as_str() && uri == device_uri(tenant, &device);
        let not_after = Timestamp::from_secs(certificate.validity().not_after.timestamp());
        is_ours.then(|| Self { device, serial: hex(certificate.raw_serial()), not_after })
    }
}
