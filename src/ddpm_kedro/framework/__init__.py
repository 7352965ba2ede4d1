"""Our extensions of Kedro's own classes: how configuration is read and how a session ends."""
