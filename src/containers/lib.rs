//! Images, overlay root file systems and containers by libcontainer.
