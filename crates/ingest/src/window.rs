//! The window: how many messages ingest may hold that RabbitMQ has not been told are done. Pure.

/// The smallest window: one message must always be able to pass, or nothing would ever widen it again.
pub const WINDOW_MIN: usize = 1;

/// A count of what is held, and its bound.
#[derive(Clone, Debug)]
pub struct Window {
    size: usize,
    held: usize,
}

impl Window {
    /// Holds nothing; `size` is at least [`WINDOW_MIN`].
    pub fn new(size: usize) -> Self {
        Self { size: size.max(WINDOW_MIN), held: 0 }
    }

    /// Sets the bound. Narrower than what is held, it admits nothing until enough was released.
    pub fn resize(&mut self, size: usize) {
        self.size = size.max(WINDOW_MIN);
    }

    /// The bound.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many messages are held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// How many more may be taken.
    pub fn room(&self) -> usize {
        self.size.saturating_sub(self.held)
    }

    /// So many were taken.
    pub fn take(&mut self, count: usize) {
        self.held += count;
    }

    /// So many are done.
    pub fn release(&mut self, count: usize) {
        debug_assert!(count <= self.held, "released more than was taken");
        self.held = self.held.saturating_sub(count);
    }

    /// Nothing is held any more: the connection that delivered is gone.
    pub fn clear(&mut self) {
        self.held = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_floor_is_one_message() {
        let mut window = Window::new(0);
        assert_eq!((window.size(), window.room()), (1, 1));
        window.resize(0);
        window.take(1);
        assert_eq!(window.room(), 0);
        window.release(1);
        assert_eq!(window.room(), 1);
    }

    #[test]
    fn a_narrower_window_waits_for_what_is_held() {
        let mut window = Window::new(10);
        window.take(8);
        window.resize(4);
        assert_eq!(window.room(), 0);
        window.release(5);
        assert_eq!((window.room(), window.held()), (1, 3));
        window.clear();
        assert_eq!(window.room(), 4);
    }

    proptest! {
        #[test]
        fn who_takes_only_what_there_is_room_for_never_exceeds_the_widest_size(
            steps in proptest::collection::vec((0..3_u8, 0..50_usize), 0..200),
        ) {
            let mut window = Window::new(20);
            let mut widest = 20;
            for (kind, number) in steps {
                match kind {
                    0 => window.take(number.min(window.room())),
                    1 => window.release(number.min(window.held())),
                    _ => {
                        window.resize(number);
                        widest = widest.max(window.size());
                    }
                }
                prop_assert!(window.held() <= widest);
            }
            let held = window.held();
            window.release(held);
            prop_assert!(window.room() >= WINDOW_MIN);
        }
    }
}
