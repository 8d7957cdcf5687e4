//! What charon says it has loaded of a tunnel's connection, beside what it was told: the two can differ where somebody else unloads
//! or loads connections (`swanctl --load-all` forgets all that are not in its files), or where charon takes a setting otherwise.

use super::connection;
use super::vici::Message;

/// How the two differ, a line each; nothing where they do not. Settings that this strongSwan does not tell of are passed over.
#[must_use]
pub fn differences(tunnel: &str, told: &Message, listed: &[Message]) -> Vec<String> {
    let (name, whole) = (connection::name(tunnel), told);
    let Some(told) = told.section(&name) else { return Vec::new() };
    let Some(loaded) = listed.iter().find_map(|message| message.section(&name)) else {
        return vec![format!("strongSwan has no connection {name}")];
    };
    let mut all = Differences(Vec::new());
    for list in ["local_addrs", "remote_addrs"] {
        all.compare(list, &texts(told, list), &texts(loaded, list));
    }
    all.value("version", told, loaded, |version| format!("IKEv{version}"));
    all.value("unique", told, loaded, |unique| format!("UNIQUE_{}", unique.to_uppercase()));
    all.value("rekey_time", told, loaded, seconds);
    all.value("reauth_time", told, loaded, seconds);
    all.value("dpd_delay", told, loaded, seconds);
    for side in ["local-1", "remote-1"] {
        let (Some(told), Some(loaded)) = (told.section(side), loaded.section(side)) else {
            all.0.push(format!("{side} is missing"));
            continue;
        };
        all.under(side, |all| {
            all.value("id", told, loaded, str::to_owned);
            let class = told.text("auth").map(class).unwrap_or_default();
            all.compare("class", class, loaded.text("class").unwrap_or_default());
        });
    }
    let loaded = loaded.section("children");
    for (child, told) in told.section("children").into_iter().flat_map(Message::sections) {
        let Some(loaded) = loaded.and_then(|children| children.section(child)) else {
            all.0.push(format!("strongSwan has no child {child}"));
            continue;
        };
        let number = child.strip_prefix(&name).unwrap_or(child);
        all.under(&format!("child{number}"), |all| {
            all.value("mode", told, loaded, str::to_uppercase);
            all.value("rekey_time", told, loaded, seconds);
            for count in ["rekey_bytes", "rekey_packets"] {
                // Not told is not limited.
                all.compare(count, told.text(count).unwrap_or("0"), loaded.text(count).unwrap_or("0"));
            }
            for (sent, listed) in [("local_ts", "local-ts"), ("remote_ts", "remote-ts")] {
                // charon calls the protocol by the name that /etc/protocols has for it.
                all.compare(listed, &texts(told, sent), &texts(loaded, listed).replace("[gre]", "[47]"));
            }
        });
    }
    all.dropped(&connection::drop_name(tunnel), whole, listed);
    all.0
}

struct Differences(Vec<String>);

impl Differences {
    fn compare(&mut self, what: &str, told: &str, loaded: &str) {
        if told != loaded {
            self.0.push(format!("{what}: strongSwan was told {told} and has {loaded}"));
        }
    }

    /// Compares a value that charon shows in another form.
    fn value(&mut self, name: &str, told: &Message, loaded: &Message, form: impl Fn(&str) -> String) {
        if let (Some(told), Some(loaded)) = (told.text(name), loaded.text(name)) {
            self.compare(name, &form(told), loaded);
        }
    }

    /// The policies of the connection `name` that keep the kernel from GRE, as charon has installed them.
    fn dropped(&mut self, name: &str, told: &Message, listed: &[Message]) {
        let children = told.section(name).and_then(|told| told.section("children"));
        for (child, told) in children.into_iter().flat_map(Message::sections) {
            // charon lists it with its connection's name in front.
            let mut policies = listed.iter().flat_map(Message::sections).map(|(_, policy)| policy);
            let Some(policy) = policies.find(|policy| policy.text("child") == Some(child)) else {
                self.0.push(format!("strongSwan has not installed {child}"));
                continue;
            };
            self.under(child, |all| {
                all.value("mode", told, policy, str::to_uppercase);
                for (sent, listed) in [("local_ts", "local-ts"), ("remote_ts", "remote-ts")] {
                    all.compare(listed, &texts(told, sent), &texts(policy, listed).replace("[gre]", "[47]"));
                }
            });
        }
    }

    /// What `compare` finds is in that section.
    fn under(&mut self, section: &str, compare: impl FnOnce(&mut Differences)) {
        let mut inner = Differences(Vec::new());
        compare(&mut inner);
        self.0.extend(inner.0.into_iter().map(|difference| format!("{section}, {difference}")));
    }
}

fn texts(message: &Message, list: &str) -> String {
    message.list(list).collect::<Vec<_>>().join(", ")
}

/// What charon calls a way of proof.
fn class(auth: &str) -> &'static str {
    match auth {
        "psk" => "pre-shared key",
        "pubkey" => "public key",
        _ => "EAP",
    }
}

/// A time such as `30s`, as charon lists it.
fn seconds(time: &str) -> String {
    time.strip_suffix('s').unwrap_or(time).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Message {
        let child = Message::new()
            .with("mode", "transport")
            .with("rekey_time", "3600s")
            .with_list("local_ts", ["dynamic[47]"])
            .with_list("remote_ts", ["dynamic[47]"]);
        let connection = Message::new()
            .with("version", "2")
            .with("rekey_time", "14400s")
            .with("reauth_time", "0s")
            .with_list("remote_addrs", ["192.0.2.2"])
            .with_section("local-1", Message::new().with("auth", "psk").with("id", "oslo"))
            .with_section("remote-1", Message::new().with("auth", "psk").with("id", "paris"))
            .with_section("children", Message::new().with_section("culvert-oslo", child));
        Message::new().with_section("culvert-oslo", connection)
    }

    fn listed(address: &str, id: &str, selector: &str) -> Message {
        let child = Message::new()
            .with("mode", "TRANSPORT")
            .with("rekey_time", "3600")
            .with("rekey_bytes", "0")
            .with("rekey_packets", if id == "rome" { "1000" } else { "0" })
            .with_list("local-ts", [selector])
            .with_list("remote-ts", ["dynamic[gre]"]);
        let connection = Message::new()
            .with("version", "IKEv2")
            .with("rekey_time", "14400")
            .with("reauth_time", if id == "rome" { "3600" } else { "0" })
            .with_list("remote_addrs", [address])
            .with_section("local-1", Message::new().with("class", "pre-shared key").with("id", id))
            .with_section("remote-1", Message::new().with("class", "pre-shared key").with("id", "paris"))
            .with_section("children", Message::new().with_section("culvert-oslo", child));
        Message::new().with_section("culvert-oslo", connection)
    }

    #[test]
    fn only_differences_are_told() {
        let same = listed("192.0.2.2", "oslo", "dynamic[47]");
        assert_eq!(differences("oslo", &told(), &[same]), [""; 0]);
        let other = listed("192.0.2.9", "rome", "dynamic");
        assert_eq!(
            differences("oslo", &told(), &[other]),
            [
                "remote_addrs: strongSwan was told 192.0.2.2 and has 192.0.2.9",
                "reauth_time: strongSwan was told 0 and has 3600",
                "local-1, id: strongSwan was told oslo and has rome",
                "child, rekey_packets: strongSwan was told 0 and has 1000",
                "child, local-ts: strongSwan was told dynamic[47] and has dynamic",
            ]
        );
        assert_eq!(differences("oslo", &told(), &[]), ["strongSwan has no connection culvert-oslo"]);
    }

    /// The policy that keeps the kernel from GRE is looked for among those that are installed.
    #[test]
    fn a_policy_that_is_not_there_is_told() {
        let name = "drop-culvert-oslo";
        let selectors = |local, remote| {
            Message::new().with_list(local, ["192.0.2.1/32[47]"]).with_list(remote, ["192.0.2.2/32[47]"])
        };
        let child = selectors("local_ts", "remote_ts").with("mode", "drop");
        let dropped = Message::new().with_section("children", Message::new().with_section(name, child));
        let told = told().with_section(name, dropped);
        let connection = listed("192.0.2.2", "oslo", "dynamic[47]");
        assert_eq!(
            differences("oslo", &told, std::slice::from_ref(&connection)),
            ["strongSwan has not installed drop-culvert-oslo"]
        );
        let policy = selectors("local-ts", "remote-ts").with("child", name).with("mode", "DROP");
        let policy = Message::new().with_section("drop-culvert-oslo/drop-culvert-oslo", policy);
        assert_eq!(differences("oslo", &told, &[connection, policy]), [""; 0]);
    }
}
