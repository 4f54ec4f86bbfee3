# like: lost
# event-records: yes
