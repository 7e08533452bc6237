"""What art_optim knows about training frameworks; none of them is imported here."""
