//! Peace between two rounds, and how a storm ends: what must hold once the faults are gone.

use super::run::Storm;
use mendblock_core::volume::machine::Command;
use mendblock_core::volume::state::Role;
use mendblock_kit::world::World;

impl Storm<'_> {
    /// All faults but unreadable blocks are gone, everybody is started.
    fn mend(&mut self) {
        self.world.network.heal();
        for node in [self.atlas.primary, 1 - self.atlas.primary] {
            self.keep_bad_blocks(node);
            self.world.nodes[node].handlers.clear();
            self.start(node);
        }
    }

    /// All faults of a disk but its bad blocks are gone.
    pub(super) fn keep_bad_blocks(&mut self, node: usize) {
        let unreadable = self.world.nodes[node].device.faults.unreadable.clone();
        self.mend_disk(node);
        self.world.nodes[node].device.faults.unreadable = unreadable;
    }

    /// Everything is mended, both get well (false: they do not, beyond what is promised), and the Primary serves.
    pub(super) fn peace(&mut self) -> bool {
        self.mend();
        self.orders_end();
        // A connection that broke just now is not noticed yet.
        self.world.run_for(1_000);
        let well = self.world.gets_well();
        assert!(
            well || self.atlas.beyond,
            "liveness: the pair does not get well after its faults are gone\n{}",
            self.world.describe()
        );
        for node in 0..2 {
            self.mend_disk(node);
        }
        let well = well && self.get_in_sync();
        self.get_served();
        well && self.world.nodes.iter().all(|node| node.bad_blocks.own.is_empty())
    }

    fn get_in_sync(&mut self) -> bool {
        let in_sync = |world: &World| world.is_healthy() && world.nodes.iter().all(|node| node.set_bits == 0);
        for _ in 0..10 {
            if self.world.reaches(5_000, in_sync) {
                return true;
            }
            // A request failed and nothing died: whoever heard of it mends it without being pushed.
            assert!(
                self.deaths || self.atlas.beyond || !self.world.is_healthy(),
                "P6: blocks stay out of sync on a pair that is connected\n{}",
                self.world.describe()
            );
            // A clear that died with a part is a bit too many: the next connection copies the block once more.
            self.world.break_connections();
            self.world.reaches(30_000, in_sync);
        }
        assert!(
            self.atlas.beyond,
            "liveness: blocks stay out of sync\n{}",
            self.world.describe()
        );
        false
    }

    /// The Primary serves its clients again.
    fn get_served(&mut self) {
        let primary = self.atlas.primary;
        self.world
            .run_until("every request is answered", 120_000, |world| {
                world.nodes.iter().all(|node| node.open_requests() == 0)
            });
        if self.world.role(primary) != Role::Primary {
            let answer = self.world.order(primary, Command::Primary { force: false });
            assert!(
                answer.exit_code == 0 || self.atlas.beyond,
                "primary: {answer:?}\n{}",
                self.world.describe()
            );
            if answer.exit_code == 0 {
                self.new_load();
            }
        }
    }

    pub(super) fn end_inside(&mut self) {
        self.peace();
        self.world.check_quiet();
        assert_eq!(
            self.world.client_errors,
            Vec::<String>::new(),
            "clients saw errors\n{}",
            self.world.describe()
        );
    }

    /// Safe, whatever else: everything is answered, and what can be read is right.
    pub(super) fn end_beyond(&mut self) {
        self.peace();
        let both = self.world.is_connected()
            && (0..2).all(|node| self.world.disk_state(node).is_usable())
            && self.world.role(self.atlas.primary) == Role::Primary;
        if both {
            self.load.read_everything(&mut self.world);
        }
    }

    /// The survivor is promoted without the other one. If it lacks what was answered, then the other node, once it is back, must
    /// not follow it: that they have parted is for people to settle. True: the storm is over.
    pub(super) fn part(&mut self, survivor: usize) -> bool {
        let other = 1 - survivor;
        if !self.whole || self.world.nodes[other].up || !self.world.nodes[survivor].up {
            return false;
        }
        self.world.run_until("the survivor notices", 60_000, |world| {
            world.nodes[survivor].state().connection.is_none()
        });
        if self
            .world
            .order(survivor, Command::Primary { force: false })
            .exit_code
            != 0
        {
            return true;
        }
        let lacks = self.world.lacks(survivor);
        self.world.network.heal();
        self.start(other);
        let together = self.world.reaches(30_000, World::is_healthy);
        assert!(
            !(together && lacks.is_some()),
            "P1: a node followed one that lacks an answered write (sector {lacks:?})\n{}",
            self.world.describe()
        );
        true
    }
}
