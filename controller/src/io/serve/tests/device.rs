//! A device that is played by hand: what it says, and what it hears over the real broker.
use super::*;

/// A device, played by hand.
pub(super) struct Device {
    pub(super) key: SigningKey,
    pub(super) access: Enrolled,
    pub(super) client: AsyncClient,
    pub(super) events: EventLoop,
    pub(super) counter: u64,
    /// Came before it was listened for.
    pub(super) early: Vec<(String, Vec<u8>)>,
}

impl Device {
    pub(super) async fn enrol(controller: &Controller, n: u8) -> (SigningKey, Enrolled) {
        let key = SigningKey::from_seed(&[100 + n; 32]);
        let request = EnrolRequest {
            device: format!("d{n}").parse().unwrap(),
            public_key: key.public().hex(),
            labels: [("region".to_owned(), "coast".to_owned())].into(),
            token: None,
            challenge: None,
            proof: None,
            csr: None,
        };
        (key, controller.enrol(request).await.unwrap())
    }

    pub(super) async fn connect(key: SigningKey, access: Enrolled, counter: u64) -> Self {
        let mqtt = &access.mqtt;
        let mut options = MqttOptions::new(&mqtt.username, &mqtt.host, mqtt.port);
        options.set_credentials(&mqtt.username, &mqtt.password).set_max_packet_size(Some(MAX_PACKET_BYTES));
        let (client, events) = AsyncClient::new(options, 64);
        let mut device = Self { key, access, client, events, counter, early: Vec::new() };
        for channel in [Channel::Desired, Channel::Receipt] {
            device.client.try_subscribe(device.topic(channel), QoS::AtLeastOnce).unwrap();
        }
        let mut acks = 0;
        while acks < 2 {
            match device.next().await {
                Packet::SubAck(_) => acks += 1,
                Packet::Publish(publish) => {
                    device.early.push((String::from_utf8(publish.topic.to_vec()).unwrap(), publish.payload.to_vec()))
                }
                _ => {}
            }
        }
        device.say(Channel::Status, &serde_json::to_vec(&device.status(true)).unwrap());
        device
    }

    pub(super) fn topic(&self, channel: Channel) -> String {
        Topic::new(&self.access.tenant, &self.access.device, channel).to_string()
    }

    pub(super) fn status(&self, online: bool) -> Status {
        Status { v: 1, online, session: 7, agent: "test".to_owned(), labels: BTreeMap::new(), report_form: 1 }
    }

    pub(super) fn say(&mut self, channel: Channel, body: &[u8]) -> u64 {
        self.counter += 1;
        let kind = Envelope::of(channel).unwrap();
        let bytes = envelope::seal(&self.key, &self.access.device, BootId(1), self.counter, kind, body).unwrap();
        self.client.try_publish(self.topic(channel), QoS::AtLeastOnce, channel.is_retained(), bytes).unwrap();
        self.counter
    }

    pub(super) fn report(&mut self, generation: Generation, manifest: &Manifest, phase: Phase) {
        let running = Running {
            line: line(),
            version: manifest.version.clone(),
            manifest: manifest.blob().digest,
            model: manifest.model.digest,
            since: clock::now(),
            inferences: 10,
            golden: Some(Digest::of(b"golden")),
        };
        let reported = Reported {
            v: 1,
            generation,
            rollout: None,
            phase,
            reason: None,
            active: Some(running),
            last_known_good: None,
            shadow: None,
            conditions: Vec::new(),
            trusted: TrustedVersions::default(),
            agent: "test".to_owned(),
            boot: BootId(1),
            outbox: 0,
            dropped: 0,
            at: clock::now(),
        };
        self.say(Channel::Reported, &serde_json::to_vec(&reported).unwrap());
    }

    pub(super) async fn next(&mut self) -> Packet {
        loop {
            match timeout(PATIENCE, self.events.poll()).await.expect("a packet comes").unwrap() {
                Event::Incoming(packet) => return packet,
                Event::Outgoing(_) => continue,
            }
        }
    }

    /// What comes next on a channel; others are passed over.
    pub(super) async fn hear(&mut self, channel: Channel) -> Vec<u8> {
        let topic = self.topic(channel);
        if let Some(at) = self.early.iter().position(|(early, _)| *early == topic) {
            return self.early.remove(at).1;
        }
        loop {
            if let Packet::Publish(publish) = self.next().await
                && publish.topic == topic.as_bytes()
            {
                return publish.payload.to_vec();
            }
        }
    }

    pub(super) fn director(&self) -> Document<Root> {
        Document::parse(self.access.director_root.as_bytes(), 1 << 20).unwrap()
    }

    pub(super) async fn directive(&mut self) -> (Directive, Assignment) {
        let bytes = self.hear(Channel::Desired).await;
        let root = self.director();
        let directive = director::verify(&bytes, root.claims(), &self.access.device, clock::now(), Generation(0)).unwrap();
        let assignment = directive.assignment().unwrap();
        (directive, assignment)
    }

    /// Receipts until this message's is among them.
    pub(super) async fn receipted(&mut self, counter: u64) {
        let root = self.director();
        loop {
            let bytes = self.hear(Channel::Receipt).await;
            let opened = envelope::open_by_role(&bytes, &self.access.device, Envelope::Receipt, &root.claims().keys_of("targets")).unwrap();
            let receipt: Receipt = serde_json::from_slice(&opened.body).unwrap();
            if receipt.stored.contains(&(1, counter)) {
                return;
            }
        }
    }
}
