//! Ports of the running daemon, whose links go down and up, and whose devices go away and come back.

use culvert_engine::ring::Health;

use super::{Daemon, log};

impl Daemon {
    /// Ports whose links were switched off are kept away from them, and go on with them.
    pub(super) fn follow_links(&mut self) {
        #[cfg_attr(
            not(target_os = "freebsd"),
            allow(unused_variables, reason = "threads sleep on FreeBSD alone")
        )]
        for (number, port) in self.ports.iter_mut().enumerate() {
            let up = self.host.link_state(port.link());
            let asleep = port.follow(up);
            // Elsewhere, nobody sleeps.
            #[cfg(target_os = "freebsd")]
            if asleep && let Err(error) = port.wake_sleepers() {
                let link = port.link();
                let name = self.config.ports.get(number).map_or("?", |port| &port.name);
                log::port(name).error(format_args!(
                    "{link} is down and packets may wait in all ports until it is up: {error}"
                ));
            }
        }
    }

    /// Devices that went away and came back are taken again.
    pub(super) fn look_after_ports(&mut self) {
        for (number, port) in self.ports.iter_mut().enumerate() {
            let name = self.config.ports.get(number).map_or("?", |port| &port.name);
            let link = port.link().to_owned();
            if port.is_back(self.host.link_state(&link)) {
                let trouble = match port.reattach() {
                    Ok(true) => {
                        log::port(name).info(format_args!("{link} is back and held again"));
                        None
                    }
                    Ok(false) => None,
                    Err(error) => Some(error),
                };
                if let Some(last) = self.told.reattach.get_mut(number)
                    && *last != trouble
                {
                    trouble
                        .iter()
                        .for_each(|why| log::port(name).error(format_args!("{link} is back, but: {why}")));
                    *last = trouble;
                }
            }
            let health = port.health();
            if let Some(last) = self.told.health.get_mut(number)
                && last.replace(health) != Some(health)
            {
                match health {
                    Health::Attached => log::port(name).info(format_args!("{link} is up")),
                    Health::Down => log::port(name).warn(format_args!("{link} is down")),
                    Health::Departed => log::port(name).warn(format_args!("{link} is gone")),
                }
            }
        }
    }
}
